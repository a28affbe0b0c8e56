"""Commands about datasets. In: preparing shards. Out: training on them, models."""
