"""Break runs on purpose and check the outcome. In: faults and verdicts. Out: what a user's run needs."""
