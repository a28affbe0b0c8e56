"""Certificates: the order of a published table at small scale. In: rows, numbers, verdicts. Out: training."""
