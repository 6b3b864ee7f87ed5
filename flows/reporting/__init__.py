"""What a run reports: in Prefect's interface, in its summary, and what a plan foresees."""
