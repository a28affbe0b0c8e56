"""Inject faults into runs and check the outcome. In: faults and verdicts. Out: what a user's run needs."""
