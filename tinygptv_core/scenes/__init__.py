"""Scenes that the project draws itself: what the `nano` preset sees, reads and is asked."""
