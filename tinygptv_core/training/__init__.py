"""The steps of training, and around them: states, monitoring, metrics, FLOPs, compilation, agreement of processes."""
