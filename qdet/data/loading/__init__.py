"""Batches from shards and a plan. In: reading ahead, collating. Out: which sample comes when."""
