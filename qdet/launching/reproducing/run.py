"""Train the first steps of a run again, and compare every loss."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from qdet.checkpoint.run_names import require_folder
from qdet.config import override
from qdet.errors import TrainingError
from qdet.launching.reproducing.differences import list_differences, tolerance
from qdet.launching.reproducing.plan import Reproduction, Request, plan_reproduction
from qdet.launching.reproducing.ranks import RUN, train_on_ranks
from qdet.storage import Folder
from qdet.training.beginning.record import first_difference, read_beginning


def reproduce(run: str, request: Request) -> str:
    """Train the first steps of a run again; return a line that says how well losses agree.

    Args:
        run: Its name or a part of it, folder or URL.
        request: How many steps, and where.

    Raises:
        ConfigError: It cannot be reproduced here, as with other data.
        TrainingError: A loss is another, or a worker failed.
    """
    folder = require_folder(run)
    wanted = plan_reproduction(folder, request)
    different = list_differences(wanted.recorded, wanted.here)
    within = tolerance(wanted.recorded, wanted.here)
    print(*announce(str(folder), wanted, different, within), sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="qdet-reproduce-") as scratch:
        job = override(wanted.job, {"store.path": scratch})
        train_on_ranks(job, wanted.steps, Path(scratch))
        again = read_beginning(Folder.open(scratch).child(RUN))
    found = () if again is None else again.losses
    return compare(wanted.recorded.losses[: wanted.steps], found, within=within, different=different)


def announce(run: str, wanted: Reproduction, different: Sequence[str], within: float) -> list[str]:
    """Return the lines that are printed before the first step."""
    many = "s" if wanted.here.ranks > 1 else ""
    wants = f"to a relative {within:g}" if within else "bit for bit"
    first = (
        f"training steps 1 to {wanted.steps} of {run} again with {wanted.here.ranks} worker{many} on "
        f"{wanted.here.conditions.device}; losses must agree {wants}"
    )
    return [first, *(f"differs: {line}" for line in different)]


def compare(
    recorded: Sequence[float], found: Sequence[float], *, within: float, different: Sequence[str]
) -> str:
    """Return a line that says that all losses agree.

    Args:
        recorded: Losses of the run.
        found: Those of the reproduction.
        within: How far they may differ, relative to the recorded ones; 0 compares every bit.
        different: What is not as it was then, for the message.

    Raises:
        TrainingError: One differs, or is missing; it names the first step.
    """
    steps = len(recorded)
    if len(found) < steps:
        raise TrainingError(f"the reproduction ended after {len(found)} of {steps} steps")
    place = first_difference(recorded, found, within=within)
    if place is None:
        equal = first_difference(recorded, found) is None
        return f"{steps} of {steps} losses are equal" + (" bit for bit" if equal else f" to {within:g}")
    then, now = recorded[place], found[place]
    reason = f"; what differs here: {'; '.join(different)}" if different else ""
    raise TrainingError(
        f"step {place + 1}: the loss is {now!r}, it was {then!r} (relative difference "
        f"{abs(now - then) / abs(then) if then else float('inf'):.1g}){reason}"
    )
