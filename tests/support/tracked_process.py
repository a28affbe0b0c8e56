"""A process that logs a run of 20 points: `python -m tests.support.tracked_process URI SPOOL NAME`."""

import sys
from pathlib import Path

from qdet.tracking import MLflowTracker


def main() -> None:
    """Open the run, log, and exit with 1 unless all of it was sent."""
    uri, spool, name = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    tracker = MLflowTracker.open(Path(spool), experiment="first", run_name=name, tracking_uri=uri)
    for step in range(20):
        tracker.metrics({"loss": 1 / (step + 1)}, step)
    sys.exit(0 if tracker.close("FINISHED", wait=240) else 1)


if __name__ == "__main__":
    main()
