"""Which samples form which batch. In: pure functions of seed, epoch and step. Out: pixels and I/O."""
