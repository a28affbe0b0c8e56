"""A sweep's record and decisions, without Ray. In: reports of trials. Out: what runs, stops, was best."""
