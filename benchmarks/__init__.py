"""What the project is faster at than the conventional way: both on the same work, in one run."""
