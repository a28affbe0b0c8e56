"""Pictures: boxes on images, and what a detector looks at. In: arrays and detectors. Out: files, runs."""
