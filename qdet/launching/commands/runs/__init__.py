"""Commands about runs: a list, their checkpoints, their bad steps. In: printing. Out: using models."""
