"""When and what to save, and resuming. In: training's state. Out: file formats (qdet.checkpoint)."""
