"""The `python -m qdet` commands around a job: submit it, print what it reads, convert weights, start Ray."""

import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro

from qdet.errors import ConfigError
from qdet.launching.commands.head import head
from qdet.launching.exit_status import exit_on_user_error

app = tyro.extras.SubcommandApp()
app.command(head)
_rest: list[str] = []  # what stands behind `--`, for the job


@app.command
def submit(job: tyro.conf.Positional[str], *, address: str | None = None, start_head: bool = False) -> int:
    """Submit a job file to a Ray cluster and follow it: qdet submit jobs/NAME.py -- --train.epochs 12.

    Args:
        job: The job file, below the current folder. What follows `--` is its command line.
        address: URL of the cluster's dashboard; by default RAY_API_SERVER_ADDRESS, then the local head.
        start_head: Bring a local head up where none runs, and leave it running.
    """
    from qdet.launching.ray_backend import head as local
    from qdet.launching.ray_backend.submit import submit as submit_job

    if start_head and address is None:
        local.up()
    return submit_job(job, _rest, address=address)


@app.command
def demo(*, started: float | None = None) -> int:
    """Train the demo on shards that `make demo` has prepared. What follows `--` is added to its command line.

    Args:
        started: Unix time that the minutes are counted from.
    """
    from qdet.launching.commands.demo import run_demo

    return run_demo(_rest, started=started)


@app.command
def sync_tracking(
    folder: Annotated[Path, tyro.conf.Positional] = Path(".qdet/tracking"),
) -> int:
    """Send MLflow the points that its server did not take while runs trained.

    Args:
        folder: Spool of one run, or a folder that holds several.
    """
    from qdet.tracking import send_spool

    print(f"sent {send_spool(folder)} records")
    return 0


@app.command
def convert(
    checkpoint: tyro.conf.Positional[Path],
    *,
    to: Path,
    all_classes: bool = False,
    dc5: bool = False,
    heads: int | None = None,
) -> int:
    """Convert a published checkpoint into a folder that `--store.init-from` starts a job from.

    Args:
        checkpoint: File of a detector's authors or of transformers (.pth, .bin, .safetensors), or its folder.
        to: New folder to write.
        all_classes: Keep all 91 rows of heads that count in COCO's ids, instead of those of its 80 classes.
        dc5: The backbone's last stage is dilated: weights do not show it, files of transformers say it.
        heads: Heads of every attention, where they are not 8: weights do not show them either.
    """
    from qdet.launching.commands import convert as converter

    found = converter.convert(checkpoint, to, all_classes=all_classes, dc5=dc5, heads=heads)
    print(converter.report(found, to))
    return 0


@app.command
def order(
    *,
    data: str,
    split: str = "train",
    seed: int = 0,
    epoch: int = 0,
    global_batch: int = 16,
    world: int = 1,
    start: int = 0,
    steps: int | None = None,
    job: Path | None = None,
) -> int:
    """Print which images training reads, a line of JSON per step. What follows `--` are flags of the job.

    Args:
        data: Folder or URL of shards, or one that holds a folder per split.
        split: Split to print the order of.
        seed: The job's --train.seed.
        epoch: Epoch to print, from 0.
        global_batch: Images per step over all workers, the job's --train.batch-size.
        world: Workers that a step is shared by.
        start: First step, counted from the epoch's beginning.
        steps: Steps to print; by default all up to the epoch's end, which they never pass.
        job: Job file whose augmentation, tail and batching by size are taken; by default those of DataConfig.
    """
    from qdet.launching.commands import order as printing

    settings = printing.settings_of(job, _rest)
    stretch = printing.Stretch(epoch=epoch, start=start, steps=steps, world=world)
    shards = printing.find_split(data, split, settings)
    printing.show(printing.lines(shards, settings, stretch, seed=seed, global_batch=global_batch))
    return 0


@app.command
def checkpoint(
    folder: tyro.conf.Positional[str],
    *,
    json: bool = False,
    export: Path | None = None,
    ema: bool = False,
    weights: bool = False,
) -> int:
    """List the checkpoints of a run, compare every byte with what was written, and say which one is taken.

    Args:
        folder: Folder or URL of a run, or of one checkpoint.
        json: Print an object for programs instead of a table.
        export: Write the model of the checkpoint that is taken to this .safetensors file, and its job to the
            .json file beside it.
        ema: Export averaged weights, or fail where there are none; by default they are taken where there are.
        weights: Export the weights that were trained, not their average.
    """
    from qdet.launching.commands import checkpoint as looking

    if (ema or weights) and (export is None or (ema and weights)):
        raise ConfigError("--ema or --weights says what --export FILE writes: give one of them, with it")
    looks = looking.look(folder)
    print(looking.show_json(looks) if json else looking.show(looks), flush=True)
    taken = looking.chosen(looks)
    if export is not None:
        said = looking.export_model(taken, export, ema=ema, weights=weights)
        print(said, file=sys.stderr if json else sys.stdout)
    return 0


@app.command
def replay(file: tyro.conf.Positional[str]) -> int:
    """Run a step that training skipped again, on the CPU: its first bad layer, and the range of every layer.

    Args:
        file: A bad_step_*.safetensors in the folder of a run, by path or URL.
    """
    from qdet.launching.commands.replay import replay as run_again

    print(run_again(file))
    return 0


@app.command
def chaos(
    *,
    minutes: float = 10.0,
    folder: Path | None = None,
    faults: tuple[str, ...] = (),
    workers: int = 2,
    seed: int | None = None,
) -> int:
    """Break small trainings at random moments, and compare what they learn with one that nothing disturbed.

    What follows `--` is added to the job's command line, as in `-- --train.zero 3`.

    Args:
        minutes: Time for broken runs; the last one is let through to its end.
        folder: New folder for images, checkpoints and logs; by default a temporary one.
        faults: Faults to choose from: worker, workers, driver, term, freeze, damage. By default all.
        workers: Training processes.
        seed: Seed of moments and faults; by default a new one every time.
    """
    from qdet.launching.chaos.run import Chaos, run_chaos

    return run_chaos(
        Chaos(folder=folder, minutes=minutes, faults=faults, workers=workers, seed=seed, flags=tuple(_rest))
    )


@app.command
def zoo(*, json: bool = False) -> int:
    """Print every published model: its size here and in its paper, its AP there, and its command.

    Args:
        json: Print a list of objects for programs instead of a table.
    """
    from qdet import zoo as models

    print(dumps(models.as_json(), indent=1) if json else models.table())
    return 0


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; what stands behind `--` goes to the job."""
    ours = list(sys.argv[1:] if args is None else args)
    if "--" in ours:
        split = ours.index("--")
        _rest[:] = ours[split + 1 :]
        ours = ours[:split]
    exit_on_user_error(
        lambda: app.cli(prog="python -m qdet", args=ours, config=(tyro.conf.FlagCreatePairsOff,))
    )


if __name__ == "__main__":
    main()
