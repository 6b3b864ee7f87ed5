"""Around the steps of training: saving, monitoring, metrics, FLOPs, compilation, agreement among processes."""
