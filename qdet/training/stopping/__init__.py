"""When a training ends before its last step. In: requests, time, metrics. Out: checkpoints."""
