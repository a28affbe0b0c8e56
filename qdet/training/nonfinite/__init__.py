"""Skip non-finite steps and find their cause. In: losses, gradients. Out: other faults."""
