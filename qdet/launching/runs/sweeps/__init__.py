"""A sweep's record and decisions, no Ray. In: reports of trials. Out: what runs, stops, was best; plots."""
