"""Train, tune and submit on Ray. In: all that imports Ray. Out: what a local run also needs."""
