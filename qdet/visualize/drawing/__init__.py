"""Pictures of what was recorded. In: arrays in pixels of the original image. Out: detectors."""
