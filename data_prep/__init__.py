"""Datasets: rendered, converted, checked."""
