"""The demonstration: `jobs/adamixer_swin.py --demo` as a Ray job on a local head, its result in one line."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qdet.errors import ConfigError, TrainingError
from qdet.launching import paths
from qdet.launching.ray_backend import head
from qdet.launching.ray_backend.submit import submit
from qdet.launching.runs import report

JOB = "jobs/adamixer_swin.py"
HELD_OUT = "data/demo/coco/val"
PREDICTIONS = "data/demo/predictions"
SHOWN = 4
"""Held-out images to predict in at the end."""
SHARDS = ("data/demo/shards/train", "data/demo/shards/val")


def run_demo(arguments: Sequence[str] = (), *, started: float | None = None) -> int:
    """Run the demo on the local head, which is brought up for it where there is none.

    Args:
        arguments: Flags of the job beside `--demo`.
        started: Unix time that the minutes are counted from; by default now.

    Returns:
        The exit code of the job.

    Raises:
        ConfigError: The demo's shards have not been made.
    """
    started = time.time() if started is None else started
    missing = [folder for folder in SHARDS if not (Path(folder) / "manifest.json").is_file()]
    if missing:
        raise ConfigError(f"{missing[0]} holds no shards; `make demo` renders and converts them")
    was_up = head.running() is not None
    local = head.up()
    os.environ.update(local.environment)
    result = paths.state_folder() / "demo-result.json"
    result.unlink(missing_ok=True)
    try:
        code = submit(
            JOB,
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


def show_prediction(run: str) -> None:
    """Predict on a few held-out images with the trained model, and print the next commands to try."""
    from qdet.inference.load import load
    from qdet.launching.commands.models.prediction import Prediction

    drawn, images = Path(PREDICTIONS), sorted(Path(HELD_OUT).glob("*.jpg"))[:SHOWN]
    if images:  # shards may have been made elsewhere
        print(f"\npredictions of {run} on held-out images, drawn in {drawn}:", flush=True)
        prediction = Prediction(load(run), score=None, drawings=drawn, results=None)
        prediction.run(list(map(str, images)))
    commands = (
        f"predict {run} photo.jpg --to predictions",
        f"evaluate {run} --html report.html",
        f"visualize {run} {HELD_OUT}/000002.jpg --to looks",
        f"export {run} --to model.onnx",
        f"serve {run}",
        "ui",
    )
    print("next:", *(f"  {paths.program('qdet')} {command}" for command in commands), sep="\n", flush=True)


def last_line(outcome: dict[str, Any], *, minutes: float) -> str:
    """Return the line that says it all, for people and for programs.

    >>> last_line({"metrics": {"val/AP": 0.4321}, "mlflow_run_id": "0af1"}, minutes=9.04)
    'AP=0.4321 minutes=9.0 run=0af1'
    """
    return f"AP={outcome['metrics']['val/AP']:.4f} minutes={minutes:.1f} run={outcome['mlflow_run_id']}"


def _read(result: Path) -> dict[str, Any]:
    if not result.is_file():
        raise TrainingError(f"the job ended well but left no {result}")
    return json.loads(result.read_text())
