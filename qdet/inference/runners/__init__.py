"""Runners of exported graphs. In: files of qdet's own export. Out: how they are written."""
