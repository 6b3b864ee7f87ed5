"""Around the store: its locks, its notes read and compared, where a thing came from, what may go, copies elsewhere."""
