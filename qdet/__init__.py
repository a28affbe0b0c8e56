"""qdet: train query-based object detectors on a Ray cluster, one Python file per run."""
