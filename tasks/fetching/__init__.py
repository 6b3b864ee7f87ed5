"""img2dataset in a process group of its own, guarded and followed; sites' reservations; a loopback server."""
