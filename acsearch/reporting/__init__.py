"""What people read of a study: the MLflow record with its views, figures and the HTML report."""
