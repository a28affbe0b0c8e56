"""Sweeps on Ray: trials are started, judged and stopped.  In: a job, a sweep, a cluster.  Out: a table."""
