"""The MLflow registry: what it holds, a version's card and code, and the champion."""
