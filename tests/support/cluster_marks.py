"""Marks of slow tests that start a Ray cluster."""

import pytest


def on_a_cluster(timeout: int = 900) -> list[pytest.MarkDecorator]:
    """Return the marks of tests that start a cluster, one at a time, and may take `timeout` seconds each."""
    return [
        pytest.mark.ray,
        pytest.mark.slow,
        pytest.mark.timeout(timeout),
        pytest.mark.usefixtures("only_cluster"),
    ]
