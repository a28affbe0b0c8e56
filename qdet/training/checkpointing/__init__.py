"""What to save, and resuming. In: the state of a training. Out: file formats (qdet.checkpoint)."""
