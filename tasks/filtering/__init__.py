"""What rules ask of rows (hosts, words, repeats), and the lists of what is to be left out."""
