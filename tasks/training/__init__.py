"""Around a stage's training: Ray's cluster, the vision-token cache, and what DeepSpeed divides."""
