"""Cut a dataset into shards and write them. In: tar, plans, manifests. Out: parsing, rendering."""
