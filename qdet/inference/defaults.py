"""What holds wherever a model predicts: from Python, on the command line and behind HTTP."""

SCORE = 0.3
"""Least score of detections that are shown, where none is given."""
