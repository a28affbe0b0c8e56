"""Notice hangs, stragglers, spikes, unused parameters, bad images. In: observers. Out: mending steps."""
