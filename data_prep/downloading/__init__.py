"""Fetch and unpack public datasets. In: what touches the network. Out: annotations and shards."""
