"""TinyGPT-V's model, data loading, training and evaluation; runs alone, without orchestrator or cluster."""
