"""Layers that read features inside boxes. In: RoI parts. Out: token attention, pyramids."""
