"""The MLflow registry and its database: what it holds, a version's card, and the code that MLflow serves."""
