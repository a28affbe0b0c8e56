"""Layers that detectors are assembled from, one idea per file."""
