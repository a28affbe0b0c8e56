"""Breaking runs again and again for some minutes, each compared with one that nothing disturbed."""

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qdet.errors import TrainingError
from qdet.launching.chaos.faults import named
from qdet.launching.chaos.job import IMAGES, SIDE, STEPS
from qdet.launching.chaos.trial import Planned, Trial
from qdet.launching.chaos.verdict import problems


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """What is broken, for how long."""

    folder: Path | None = None
    """New or empty folder for shards, checkpoints, logs; by default a temporary one."""
    minutes: float = 10.0
    """Time for broken runs; the last one is let through to its end."""
    faults: tuple[str, ...] = ()
    """Names of faults to choose from; by default all."""
    workers: int = 2
    """Training processes."""
    seed: int | None = None
    """Of moments and faults; by default another one every time."""
    flags: tuple[str, ...] = ()
    """Further flags of the job, as `--train.zero 3`."""


@dataclass
class Result:
    """What came out."""

    undisturbed: Trial
    broken: list[Trial] = field(default_factory=list)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """Problems by the run's name."""

    @property
    def faults(self) -> int:
        """Faults in all."""
        return sum(len(trial.events) for trial in self.broken)

    @property
    def recovery_ratio(self) -> float | None:
        """Median of the times from a fault to the next step, over the time from start to first step."""
        times = [e.recovery for trial in self.broken for e in trial.events if e.recovery is not None]
        startup = self.undisturbed.startup
        return statistics.median(times) / startup if times and startup else None


def break_and_tell(chaos: Chaos) -> int:
    """Break runs, print what came of it, and return the exit code: 0 where nothing was lost.

    Raises:
        TrainingError: A broken run differs from the undisturbed one, or does not come to its end.
    """
    console = Console(highlight=False)
    folder = chaos.folder or Path(tempfile.mkdtemp(prefix="qdet-chaos-"))
    console.print(f"in {folder}")
    show(break_runs(chaos, folder.absolute(), console), console)
    return 0


def break_runs(chaos: Chaos, folder: Path, console: Console) -> Result:
    """Run the job once undisturbed, then broken until the time is over.

    Raises:
        TrainingError: Even the undisturbed run fails, or a broken one never comes to its end.
    """
    names = named(chaos.faults)
    seed = chaos.seed if chaos.seed is not None else random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    prepare(folder)
    console.print(f"seed {seed}; an undisturbed run first")
    result = Result(Trial("undisturbed", folder, workers=chaos.workers, flags=chaos.flags))
    result.undisturbed.run([], chance)
    console.print(f"{STEPS} steps in {result.undisturbed.seconds:.0f} s")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    end = time.monotonic() + chaos.minutes * 60
    while time.monotonic() < end:
        name = f"broken-{len(result.broken) + 1}"
        trial = Trial(name, folder, workers=chaos.workers, flags=chaos.flags)
        trial.run(_plan(names, result.undisturbed, chance), chance)
        result.broken.append(trial)
        found = problems(trial, result.undisturbed, steps=STEPS, tracking_uri=uri)
        result.wrong |= {name: found} if found else {}
        for event in trial.events:
            back = "" if event.recovery is None else f", back after {event.recovery:.1f} s"
            console.print(f"{name}, step {event.step}: {event.what}{back}")
        console.print(f"{name}: " + ("; ".join(found) or "bitwise the undisturbed run"))
    return result


def show(result: Result, console: Console) -> None:
    """Print the result as a table, and raise if anything is wrong.

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
        console.print(f"recovery takes {result.recovery_ratio:.2f} of the time of a start (median)")
    if result.wrong:
        name, found = next(iter(result.wrong.items()))
        raise TrainingError(
            f"{len(result.wrong)} of {len(result.broken)} runs are wrong; {name}: {'; '.join(found)}"
        )
    runs = len(result.broken)
    console.print(f"{runs} of {runs} runs, {result.faults} faults: bitwise equal, nothing lost")


def _plan(names: Sequence[str], undisturbed: Trial, chance: random.Random) -> list[Planned]:
    """Draw one to four faults: a quarter of them while a run starts, the others while it trains."""
    start = undisturbed.startup or 1.0
    each = (undisturbed.seconds - start) / STEPS
    plan = []
    for step in sorted(chance.randrange(STEPS) for _ in range(chance.randint(1, 4))):
        starting = chance.random() < 0.25
        delay = chance.uniform(0, start) if starting else chance.uniform(0, 3 * each)
        plan.append(Planned(0 if starting else max(step, 1), delay, chance.choice(names)))
    return plan


def prepare(folder: Path) -> None:
    """Render the images and pack them into shards."""
    from data_prep.coco_to_shards import Conversion, convert
    from data_prep.synthetic import SyntheticConfig, prepare

    if folder.exists() and any(folder.iterdir()):
        raise TrainingError(f"--folder {folder} is not empty; give a new one")
    train, val = IMAGES["train"], IMAGES["val"]
    prepare(SyntheticConfig(out=folder / "coco", train=train, val=val, size=SIDE, workers=1))
    for split in IMAGES:
        conversion = Conversion(coco=folder / "coco", split=split, out=folder / "data" / split, processes=1)
        convert(conversion, console=Console(quiet=True))
