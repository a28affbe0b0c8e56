"""Notice hangs, lag, spikes, unused parameters, bad images. In: observers. Out: repairs of a step."""
