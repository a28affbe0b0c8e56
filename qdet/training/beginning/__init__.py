"""What holds before the first step, and the first losses. In: comparison, record. Out: how a step is made."""
