"""What people have in files: lists, annotations and archives, found, and read a few records at a time."""
