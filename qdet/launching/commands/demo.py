"""`qdet demo`."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Render images, train on them, predict. What follows `--` is added to the job's command line."""

    started: float | None = None
    """Unix time that the minutes are counted from."""

    def run(self, job_flags: Sequence[str]) -> int:
        """Train, and print the result in one line."""
        from qdet.launching.commands.demo_run import run_demo

        return run_demo(job_flags, started=self.started)
