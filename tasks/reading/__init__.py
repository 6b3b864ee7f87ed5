"""Files that people have: lists, annotations, archives, pickles; decompressed, and read a few records at a time."""
