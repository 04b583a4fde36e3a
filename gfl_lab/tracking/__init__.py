"""The mirror to MLflow: run directories are the truth, a tracking server shows them. The only package that imports mlflow."""
