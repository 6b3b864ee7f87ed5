-- When PostgreSQL's volume is new. Prefect's database is the one that the image makes by itself (POSTGRES_DB).
CREATE DATABASE mlflow;
