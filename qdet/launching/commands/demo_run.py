"""The demonstration: rendered images, and `adamixer_swin --demo` as a Ray job on a local head.

It runs in any folder, with or without a checkout of the project.
"""

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qdet.console import open_console
from qdet.errors import TrainingError
from qdet.job_files import find_job, name_job
from qdet.launching import paths
from qdet.launching.ray_backend import head
from qdet.launching.ray_backend.submit import submit
from qdet.launching.runs import report
from qdet.launching.runs.typed import next_commands
from qdet.storage.parsing import parse_json

JOB = "adamixer_swin"
HELD_OUT = "data/demo/coco/val"
PREDICTIONS = "data/demo/predictions"
SHOWN = 4
"""Held-out images to predict in at the end."""
COCO, SHARDS, SPLITS = Path("data/demo/coco"), Path("data/demo/shards"), ("train", "val")


def run_demo(arguments: Sequence[str] = (), *, started: float | None = None) -> int:
    """Run the demo on the local head, which is brought up for it where there is none.

    Args:
        arguments: Flags of the job beside `--demo`.
        started: Unix time that the minutes are counted from; by default now.

    Returns:
        The exit code of the job.

    Raises:
        QdetError: The images cannot be written, or the cluster does not start.
    """
    started = time.time() if started is None else started
    render_shards()
    was_up = head.running() is not None
    local = head.up()
    os.environ.update(local.environment)
    result = paths.state_folder() / "demo-result.json"
    result.unlink(missing_ok=True)
    try:
        code = submit(
            name_job(find_job(f"qdet:{JOB}")),
            ["--demo", *arguments],
            address=local.dashboard,
            variables={report.RESULT: str(result.absolute()), report.BRIEF: "1"},
        )
    finally:
        if not was_up:
            print("taking the Ray head down", flush=True)
            head.down()
    if code == 0:
        outcome = _read(result)
        show_prediction(report.named(outcome["folder"]))
        print(last_line(outcome, minutes=(time.time() - started) / 60), flush=True)
    return code


def render_shards() -> None:
    """Render the demo's images and convert them to shards, both unless that is done."""
    from data_prep import coco_to_shards, synthetic

    synthetic.main(synthetic.SyntheticConfig(out=COCO))
    for split in SPLITS:
        conversion = coco_to_shards.Conversion(coco=COCO, split=split, out=SHARDS / split)
        coco_to_shards.convert(conversion, console=open_console())


def show_prediction(run: str) -> None:
    """Predict on a few held-out images with the trained model, and print the next commands to try."""
    from qdet.inference.load import load
    from qdet.launching.commands.models.prediction import Prediction

    drawn, images = Path(PREDICTIONS), sorted(Path(HELD_OUT).glob("*.jpg"))[:SHOWN]
    if images:  # shards may have been made elsewhere
        print(f"\npredictions of {run} on held-out images, drawn in {drawn}:", flush=True)
        prediction = Prediction(load(run), score=None, drawings=drawn, results=None)
        prediction.run(list(map(str, images)))
    qdet = paths.program("qdet")
    commands = [
        *next_commands(run, program=qdet),
        shlex.join([qdet, "visualize", run, f"{HELD_OUT}/000002.jpg", "--to", "looks"]),
        shlex.join([qdet, "serve", run]),
        shlex.join([qdet, "ui"]),
    ]
    print("next:", *(f"  {command}" for command in commands), sep="\n", flush=True)


def last_line(outcome: dict[str, Any], *, minutes: float) -> str:
    """Return the line that says it all, for people and for programs.

    Its AP is that of the best checkpoint, which `qdet evaluate RUN` gives too.

    >>> last_line({"best_ap": 0.4321, "mlflow_run_id": "0af1"}, minutes=9.04)
    'AP=0.4321 minutes=9.0 run=0af1'
    """
    return f"AP={outcome['best_ap']:.4f} minutes={minutes:.1f} run={outcome['mlflow_run_id']}"


def _read(result: Path) -> dict[str, Any]:
    if not result.is_file():
        raise TrainingError(f"the job ended well but left no {result}")
    return parse_json(result.read_text())
