"""Read and check annotation files and images. In: formats of datasets. Out: tar, shards, network."""
