"""Check a job before workers start. In: read-only checks and the dry run. Out: Ray and MLflow."""
