"""Skip and explain non-finite steps. In: losses and gradients gone wrong. Out: other faults."""
