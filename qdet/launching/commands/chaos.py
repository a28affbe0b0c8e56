"""`qdet chaos`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg


@dataclass(frozen=True, kw_only=True)
class ChaosCommand:
    """Break small trainings at random moments, and compare what they learn with one that nothing disturbed.

    What follows `--` is added to the job's command line, as in `-- --train.zero 3`.
    """

    minutes: float = 10.0
    """Time for broken runs; the last one is let through to its end."""
    folder: Path | None = None
    """New folder for images, checkpoints and logs; by default a temporary one."""
    faults: Annotated[tuple[str, ...], arg(metavar="FAULT ...", help_behavior_hint="")] = ()
    """Faults to choose from: worker, workers, driver, term, freeze, damage, second, pause,
    flip, lie, mismatch; by default all."""
    workers: int = 2
    """Training processes."""
    seed: int | None = None
    """Seed of moments and faults; by default a new one every time."""

    def run(self, job_flags: Sequence[str]) -> int:
        """Break runs until the time is up, and print how they compare."""
        from qdet.launching.chaos.run import Chaos, run_chaos

        return run_chaos(
            Chaos(
                folder=self.folder,
                minutes=self.minutes,
                faults=self.faults,
                workers=self.workers,
                seed=self.seed,
                flags=tuple(job_flags),
            )
        )
