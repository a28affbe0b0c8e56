"""Loaded models judged on datasets. In: models and shards. Out: a `Report` of `qdet.evaluation`'s numbers."""
