"""A user's callbacks. In: what they are told, and how they are called. Out: when; loggers."""
