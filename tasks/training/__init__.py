"""Around a stage's training: Ray's cluster, what it would take, and what DeepSpeed divides."""
