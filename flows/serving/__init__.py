"""The servers beside a run: Prefect's and MLflow's, who is up, and what killed ones left."""
