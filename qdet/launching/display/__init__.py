"""What a person sees of a running training. In: bar, lines, events of workers. Out: what is measured."""
