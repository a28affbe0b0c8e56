"""A run from outside: name, record, MLflow run, report. In: bookkeeping. Out: Ray, workers."""
