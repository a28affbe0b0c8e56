"""Render the demo's scenes and pre-training targets. In: drawing alone. Out: files and shards."""
