"""Writing the losses of a run's first steps while it trains, on a thread."""

from dataclasses import replace

from qdet.checkpoint import RunFolder
from qdet.data.plan.epoch import PLAN_VERSION
from qdet.data.shards.protocol import Dataset
from qdet.errors import LeaseError
from qdet.job import Job
from qdet.training.beginning.conditions import observe_conditions
from qdet.training.beginning.record import FILE, MOST, Beginning
from qdet.training.beginning.same_data import identify
from qdet.training.checkpointing.async_write import BackgroundTask
from qdet.training.checkpointing.contents import settings
from qdet.training.distributed import World

WRITTEN = (1, 2, 5, 10, 20, 50, MOST)
"""Numbers of losses after which the record is written, so that a run that is killed leaves most of it."""
CLOSING = 10.0
"""Seconds that the end of a training waits for its last record."""


def observe_beginning(
    job: Job, world: World, hosts: tuple[str, ...], *, train: Dataset, val: Dataset
) -> Beginning:
    """Return what is known of a training before its first step.

    Args:
        job: Its settings, with ZeRO's stage as it was chosen.
        world: Its ranks.
        hosts: The host of each.
        train: What it trains on.
        val: What it is evaluated on.
    """
    return Beginning(
        job=settings(job),
        ranks=world.size,
        hosts=hosts,
        conditions=observe_conditions(world.device),
        plan_version=PLAN_VERSION,
        data={"train": identify(train), "val": identify(val)},
    )


class BeginningRecorder:
    """Keeps the first losses of a training.

    A store that does not take the record costs the record, not the training.

    Args:
        run: Where it is written.
        beginning: What is known before the first step; None where nothing is recorded: on other ranks than
            the first, and in a training that resumes.
    """

    def __init__(self, run: RunFolder, beginning: Beginning | None) -> None:
        self._run, self._beginning = run, beginning
        self._task = BackgroundTask()
        self._written = 0

    def add(self, step: int, loss: float) -> None:
        """Take the mean loss of step number `step`, counted from 1; one that it has, or a later one, is left.

        NaN stands for a skipped step.
        """
        known = self._beginning
        if known is None or step != len(known.losses) + 1 or step > MOST:
            return
        self._beginning = replace(known, losses=(*known.losses, loss))
        if step in WRITTEN:
            self.flush()

    def flush(self) -> None:
        """Start to write what is known, unless that is written, or the write before still goes on."""
        known = self._beginning
        if known is not None and len(known.losses) > self._written and not self._task.busy:
            self._written = len(known.losses)
            self._task.start(lambda: self._put(known.to_bytes()))

    def close(self) -> None:
        """Write what is not written yet, and wait a little for that."""
        if self._task.wait(CLOSING):
            self.flush()
            self._task.wait(CLOSING)

    def _put(self, content: bytes) -> None:
        try:
            if self._run.fence is not None:
                self._run.fence.check()
            self._run.folder.put(FILE, content)
        except LeaseError:  # the run is another driver's: its checkpoints say so
            return
        except OSError as error:
            where = f"{self._run.folder}/{FILE}"
            print(f"warning: {where} could not be written ({error}): `qdet reproduce` needs it", flush=True)
