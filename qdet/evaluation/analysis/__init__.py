"""What matched detections say about a model. In: columns and matches. Out: frozen dataclasses of numbers."""
