"""Train the first steps of a run again. In: its record, differences, ranks, losses. Out: how a job trains."""
