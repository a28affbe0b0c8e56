"""`qdet train`. In: a dataset and a model to start from. Out: formats of datasets (data_prep.datasets)."""
