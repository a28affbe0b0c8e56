"""Where Ray Train may place workers. In: hosts to leave out. Out: whether a cluster has room (capacity)."""
