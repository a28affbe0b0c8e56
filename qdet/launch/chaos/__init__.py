"""Breaking a small training at random moments, and seeing that what it learns is not changed by that."""
