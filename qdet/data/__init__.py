"""COCO-format images from WebDataset shards: an index, a plan made in advance, and reading by offset."""
