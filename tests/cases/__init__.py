"""Folders of cases: inputs that something once broke on, what is run on them, and what is right."""
