"""Use a trained model: load it, predict, evaluate. In: checkpoints, images. Out: training, Ray, the web."""

SCORE = 0.3
"""Least score of detections that are shown where none is given: from Python, a shell and behind HTTP."""
