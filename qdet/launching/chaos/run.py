"""Inject faults into one run after another, and compare each with an undisturbed run."""

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qdet.console import open_console, print_line
from qdet.errors import TrainingError
from qdet.launching.chaos.copies import DATA, OTHER, make_copy
from qdet.launching.chaos.faults import select_faults
from qdet.launching.chaos.job import IMAGES, SIDE, STEPS
from qdet.launching.chaos.trial import PlannedFault, Trial
from qdet.launching.chaos.verdict import find_problems

SMALL_SHARDS = 0.05
"""Megabytes of a shard of the copy that differs."""


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """Which faults to inject, and for how long."""

    folder: Path | None = None
    """New or empty folder for shards, checkpoints and logs; by default a temporary one."""
    minutes: float = 10.0
    """Time for broken runs; the last one is allowed to finish."""
    faults: tuple[str, ...] = ()
    """Names of faults to choose from; by default all."""
    workers: int = 2
    """Training processes."""
    seed: int | None = None
    """Draws the faults and when they strike; by default a new one every time."""
    flags: tuple[str, ...] = ()
    """Further flags of the job, such as `--train.zero 3`."""


@dataclass
class Result:
    """The undisturbed run, the broken ones, and how these differ from it."""

    undisturbed: Trial
    broken: list[Trial] = field(default_factory=list)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """Problems by run name."""

    @property
    def faults(self) -> int:
        """Number of faults in all runs."""
        return sum(len(trial.events) for trial in self.broken)

    @property
    def recovery_ratio(self) -> float | None:
        """Median time from a fault to the next step, relative to the time from launch to the first step."""
        times = [e.recovery for trial in self.broken for e in trial.events if e.recovery is not None]
        startup = self.undisturbed.startup
        return statistics.median(times) / startup if times and startup else None


def run_chaos(chaos: Chaos) -> int:
    """Inject faults as `chaos` says, print the result and return exit code 0.

    Raises:
        TrainingError: A broken run differs from the undisturbed one, or never finishes.
    """
    console = open_console()
    folder = chaos.folder or Path(tempfile.mkdtemp(prefix="qdet-chaos-"))
    print_line(console, f"in {folder}")
    print_result(break_runs(chaos, folder.absolute(), console), console)
    return 0


def break_runs(chaos: Chaos, folder: Path, console: Console) -> Result:
    """Run the job once undisturbed, then with faults until the time is up; return all runs.

    Raises:
        TrainingError: The undisturbed run fails, or a broken one never finishes.
    """
    names = select_faults(chaos.faults)
    seed = chaos.seed if chaos.seed is not None else random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    prepare(folder)
    print_line(console, f"seed {seed}; an undisturbed run first")
    result = Result(Trial("undisturbed", folder, workers=chaos.workers, flags=chaos.flags))
    result.undisturbed.run([], rng)
    print_line(console, f"{STEPS} steps in {result.undisturbed.seconds:.0f} s")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    end = time.monotonic() + chaos.minutes * 60
    while time.monotonic() < end:
        name = f"broken-{len(result.broken) + 1}"
        trial = Trial(name, folder, workers=chaos.workers, flags=chaos.flags)
        trial.run(_plan(names, result.undisturbed, rng), rng)
        result.broken.append(trial)
        found = trial.problems + find_problems(trial, result.undisturbed, steps=STEPS, tracking_uri=uri)
        result.wrong |= {name: found} if found else {}
        for event in trial.events:
            back = "" if event.recovery is None else f", back after {event.recovery:.1f} s"
            print_line(console, f"{name}, step {event.step}: {event.what}{back}")
        print_line(console, f"{name}: " + ("; ".join(found) or "bitwise the undisturbed run"))
    return result


def print_result(result: Result, console: Console) -> None:
    """Print the result as a table of faults.

    Raises:
        TrainingError: A broken run differs from the undisturbed one.
    """
    table = Table("fault", "times", "runs that it hit", "of them wrong")
    kinds = sorted({event.fault for trial in result.broken for event in trial.events})
    for kind in kinds:
        hit = [trial for trial in result.broken if any(e.fault == kind for e in trial.events)]
        times = sum(e.fault == kind for trial in hit for e in trial.events)
        table.add_row(kind, str(times), str(len(hit)), str(sum(t.name in result.wrong for t in hit)))
    console.print(table)
    if result.recovery_ratio is not None:
        print_line(console, f"recovery takes {result.recovery_ratio:.2f} of the time of a start (median)")
    if result.wrong:
        name, found = next(iter(result.wrong.items()))
        raise TrainingError(
            f"{len(result.wrong)} of {len(result.broken)} runs are wrong; {name}: {'; '.join(found)}"
        )
    runs = len(result.broken)
    print_line(console, f"{runs} of {runs} runs, {result.faults} faults: bitwise equal, nothing lost")


def _plan(names: Sequence[str], undisturbed: Trial, rng: random.Random) -> list[PlannedFault]:
    """Draw one to four faults: a quarter of them during start-up, the others during training."""
    start = undisturbed.startup or 1.0
    each = (undisturbed.seconds - start) / STEPS
    plan = []
    for step in sorted(rng.randrange(STEPS) for _ in range(rng.randint(1, 4))):
        starting = rng.random() < 0.25
        delay = rng.uniform(0, start) if starting else rng.uniform(0, 3 * each)
        plan.append(PlannedFault(0 if starting else max(step, 1), delay, rng.choice(names)))
    return plan


def prepare(folder: Path) -> None:
    """Render images and pack them into shards in `folder`.

    Raises:
        TrainingError: `folder` is not empty.
    """
    from data_prep.coco_to_shards import Conversion, convert
    from data_prep.synthetic import SyntheticConfig, prepare

    if folder.exists() and any(folder.iterdir()):
        raise TrainingError(f"--folder {folder} is not empty; give a new one")
    train, val = IMAGES["train"], IMAGES["val"]
    prepare(SyntheticConfig(out=folder / "coco", train=train, val=val, size=SIDE, workers=1))
    whole = Conversion(coco=folder / "coco", split="train", out=folder / DATA / "train", processes=1)
    others = (
        replace(whole, split="val", out=folder / DATA / "val"),
        replace(whole, out=folder / OTHER / "train", shard_megabytes=SMALL_SHARDS),
    )
    for conversion in (whole, *others):
        convert(conversion, console=open_console(quiet=True))
    make_copy(folder)
