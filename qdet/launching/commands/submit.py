"""`qdet submit`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class SubmitCommand:
    """Submit a job file to a Ray cluster and follow it: qdet submit jobs/NAME.py -- --train.epochs 12."""

    job: Positional[str]
    """The job file, below the current folder, or qdet:NAME. What follows `--` is its command line."""
    address: Annotated[str | None, arg(metavar="URL")] = None
    """URL of the cluster's dashboard; by default RAY_API_SERVER_ADDRESS, then the local head."""
    start_head: bool = False
    """Bring a local head up where none runs, and leave it running."""

    include: Annotated[tuple[str, ...], arg(metavar="PATH ...", help_behavior_hint="(default: none)")] = ()
    """Files and folders to upload though they are weights, images or large; code is uploaded anyhow."""

    def run(self, job_flags: Sequence[str]) -> int:
        """Submit, and return the job's exit code."""
        from qdet.launching.ray_backend import head
        from qdet.launching.ray_backend.submit import submit

        if self.start_head and self.address is None:
            head.up()
        return submit(self.job, job_flags, address=self.address, include=self.include)
