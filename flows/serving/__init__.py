"""Prefect's and MLflow's servers beside a run: starting, ending, ports, who is up, what killed runs left open."""
