"""What a dataset is: manifest, index, annotations. In: what is in a shard. Out: order and batches."""
