"""`qdet reproduce`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class ReproduceCommand:
    """Train the first steps of a run again from its record, and compare every loss, on CPUs bit for bit."""

    named: Annotated[
        Positional[str],
        arg(metavar="RUN", help="A run, by its name or a part of it, folder or URL."),
    ]
    steps: int | None = None
    """Steps; by default 20, of up to 100 that are recorded."""
    workers: int | None = None
    """Processes; by default as many as the run had, or the GPUs here where those are fewer."""
    train: Annotated[str | None, arg(metavar="SHARDS")] = None
    """Where the training shards are now; they must be the run's."""
    val: Annotated[str | None, arg(metavar="SHARDS")] = None
    """Where the validation shards are now; they must be the run's."""
    trust: bool = False
    """Open the URLs that the record names, where that is itself behind a URL."""

    def run(self, _: Sequence[str]) -> int:
        """Train, and print how losses compare."""
        from qdet.launching.reproducing.plan import Request
        from qdet.launching.reproducing.run import reproduce

        request = Request(
            steps=self.steps, workers=self.workers, train=self.train, val=self.val, trust=self.trust
        )
        print(reproduce(self.named, request))
        return 0
