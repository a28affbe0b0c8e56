"""Learned queries of training alone. In: how many, and how they are matched. Out: their predictions apart."""
