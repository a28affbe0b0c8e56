"""A file per format. In: reading labels and finding splits in one. Out: which format it is, packing."""
