"""What a run reports: on the terminal, in Prefect's interface, in its summary, and what a plan foresees."""
