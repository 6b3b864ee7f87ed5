"""The order of the steps, the command line, and Prefect: which steps a run has, and what people see of it."""
