"""Every number that a GPU has to give, from one command: `python -m benchmarks.gpu --minutes 9`."""
