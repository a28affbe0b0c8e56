"""Test suite; what several tests need is in `tests.support`."""
