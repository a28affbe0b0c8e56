"""Write checkpoints while training continues.

Every rank copies its part of the state, which is all that training waits for, and a thread writes the copy
while the next steps run. One checkpoint is written at a time. All ranks wait together for the previous one,
so that a slow store does not look like a dead rank.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from qdet.checkpoint import Piece, RunFolder
from qdet.checkpoint.run_folder import Retention
from qdet.checkpoint.term import name_attempt
from qdet.checkpoint.writing import PATIENCE, Contents, add_metrics, commit, share_name, write_share
from qdet.errors import CheckpointError, LeaseError
from qdet.storage import Folder
from qdet.training.checkpointing.async_write import BackgroundTask, HostCopy
from qdet.training.checkpointing.read_back import check_written, digest_pieces
from qdet.training.distributed import World

FAILURES = 2
"""Failed checkpoints in a row that end training."""
CLOSING = 20.0
"""Seconds to finish the checkpoint being written when training ends by an error."""


class CheckpointWriter:
    """Writes the checkpoints of one run. All methods but `close` are collective.

    With `read_back` every rank compares what it wrote with what its device held.
    """

    def __init__(
        self,
        run: RunFolder,
        world: World,
        retention: Retention,
        saved: Callable[[int, str], None] = lambda step, folder: None,
        *,
        read_back: bool = False,
    ) -> None:
        self.run, self.world, self.retention, self._saved = run, world, retention, saved
        self._read_back = read_back
        self.attempt: str = world.broadcast(name_attempt(run.fence))
        """Part of the names of all files that this training writes, the same on every rank."""
        self._host, self._background = HostCopy(), BackgroundTask()
        self._give_up = threading.Event()
        self._folder: Folder | None = None
        self._failures = 0

    def save(self, step: int, pieces: Callable[[], list[Piece]], contents: Callable[[], Contents]) -> float:
        """Start writing a checkpoint; return the seconds that training waited.

        Args:
            step: Steps done.
            pieces: Returns this rank's part of all tensors; they may change after this method returns.
            contents: Returns the rest; called on rank 0.

        Raises:
            CheckpointError: The previous two checkpoints could not be written.
        """
        started = time.perf_counter()
        self.wait()
        here = pieces()
        digests = digest_pieces(here) if self._read_back else {}
        copies = self._host.take(here)
        rest = contents() if self.world.main else None
        folder = self._folder = self.run.at(step)
        self._give_up.clear()
        self._background.start(lambda: self._write(folder, copies, rest, step, digests))
        return time.perf_counter() - started

    def wait(self, *, at_end: bool = False) -> None:
        """Wait for the checkpoint being written; print why it failed, if it did.

        Raises:
            CheckpointError: It failed, and is the second in a row or the last of the run.
            LeaseError: Another driver has taken over the run.
        """
        failed = self._await()
        self._failures = self._failures + 1 if failed else 0
        if failed:
            causes = [error for error in self.world.gather(self._cause()) if error]
            error = self._background.error
            self._background.clear_error()
            # If another rank could not write, rank 0 only knows that a share did not come.
            self.world.on_main(
                lambda: self._report(causes[-1], error, final=at_end or self._failures >= FAILURES)
            )

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Add an evaluation to the checkpoint after `step` steps; return whether it had none (collective).

        A store that does not take it costs the metrics, not the run.
        """

        def add() -> bool:
            try:
                added = add_metrics(self.run.at(step), metrics)
                self.run.tidy(self.retention)
                return added
            except (OSError, CheckpointError) as error:
                print(f"the metrics of step {step} could not be added to its checkpoint: {error}", flush=True)
                return False

        return self.world.on_main(add)

    @property
    def wrote(self) -> bool:
        """Whether this training has saved a checkpoint."""
        return self._folder is not None

    def close(self) -> None:
        """Give the checkpoint being written some time to finish, when this rank ends by an error."""
        self._background.wait(CLOSING)

    def _await(self) -> bool:
        """Wait until no rank is writing; True if one failed."""
        while True:
            busy, error = self._background.busy, self._background.error
            late = self.world.main and busy and self._background.seconds > PATIENCE + 60
            writing, failed, over = self.world.sum(float(busy), float(error is not None), float(late))
            if failed:
                self._give_up.set()
            if over:
                waited = f"{PATIENCE + 60:.0f} s"
                raise CheckpointError(
                    f"checkpoint {self._folder} was not written in {waited}: check its store"
                )
            if not writing:
                return failed > 0
            self._background.wait(0.1)

    def _write(
        self,
        folder: Folder,
        pieces: list[Piece],
        contents: Contents | None,
        step: int,
        digests: Mapping[str, int],
    ) -> None:
        """Write this rank's share and, on rank 0, the manifest when all shares are there; on the thread."""
        rank, attempt = self.world.rank, self.attempt
        try:
            if self.run.fence is not None:
                self.run.fence.check()
            check = partial(check_written, folder, expected=digests) if digests else None
            write_share(folder, rank=rank, attempt=attempt, pieces=pieces, check=check)
            if contents is not None:
                commit(folder, contents, fence=self.run.fence, give_up=self._give_up)
        except Exception:
            folder.remove(f"{share_name(rank, attempt)}.safetensors")  # it may be what fills the disk
            raise
        if contents is not None:
            self._saved(step, str(folder))
            try:
                self.run.tidy(self.retention)
            except (OSError, CheckpointError) as error:
                print(f"old checkpoints of {self.run.folder} could not be removed: {error}", flush=True)

    def _cause(self) -> str | None:
        error = self._background.error
        return None if error is None else f"{type(error).__name__}: {error}"

    def _report(self, cause: str, error: Exception | None, *, final: bool) -> None:
        if isinstance(error, LeaseError):
            raise error
        said = f"checkpoint {self._folder} could not be written: {cause}. Earlier ones are untouched"
        if final:
            raise CheckpointError(
                f"{said}; free some space or give another --store.path, then resume with --store.resume"
            )
        print(f"{said}; training continues", flush=True)
