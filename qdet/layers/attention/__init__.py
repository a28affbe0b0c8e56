"""Attention that several detectors use. In: attention alone. Out: whole transformer layers."""
