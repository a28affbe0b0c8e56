"""Noise of objects in training. In: how much, and which sample. Out: random numbers, not yet applied."""
