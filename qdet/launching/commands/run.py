"""`qdet run`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """Run a job file, also one that comes with qdet: qdet run qdet:adamixer_swin -- --train.epochs 12."""

    job: Positional[str]
    """A job file, or qdet:NAME for one that comes with qdet. What follows `--` is its command line."""

    def run(self, job_flags: Sequence[str]) -> int:
        """Become the job's process, so that signals and the exit code are its own."""
        from qdet.job_files import find_job

        file = str(find_job(self.job))
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, file, *job_flags])
