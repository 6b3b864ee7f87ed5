"""img2dataset in a process group of its own: guarded, followed, and read afterwards."""
