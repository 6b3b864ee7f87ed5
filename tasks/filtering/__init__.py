"""What the rules on rows ask of them, and lists of what is to be left out."""
