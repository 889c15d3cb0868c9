-- One database each for the feature registry, MLflow and Airflow.
CREATE DATABASE feast;
CREATE DATABASE mlflow;
CREATE DATABASE airflow;
