"""Print the summary of a run: AP, its best checkpoint, what to do next; also write it as JSON."""

import json
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from qdet.checkpoint import open_folder
from qdet.checkpoint.run_names import STORE
from qdet.evaluation.coco import METRICS
from qdet.launching import paths
from qdet.launching.runs import typed
from qdet.masking import mask
from qdet.training.reporting import NO_AP

RESULT = "QDET_RESULT"
"""Environment variable: a file that gets the outcome as JSON, for the program that started the job."""
BRIEF = "QDET_BRIEF"
"""Environment variable: leaves the next commands out, which the program that started the job prints."""
PICTURE = "predictions.png"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    run: str
    folder: str
    """Path or URL of the run's folder."""
    step: int
    metrics: Mapping[str, float]
    mlflow_run_id: str | None
    tracking_uri: str
    picture: str | None = None
    """A file of predictions beside ground truth."""
    best: str | None = None
    """Path or URL of the checkpoint with the highest AP."""
    best_ap: float | None = None


def print_summary(outcome: Outcome) -> None:
    """Print the outcome, and write it where QDET_RESULT says."""
    print()
    print(ap_table(outcome.metrics))
    print()
    for name, value in _facts(outcome).items():
        print(f"{name:<16}{value}")
    if not os.environ.get(BRIEF):
        print("next:", *(f"  {command}" for command in next_commands(outcome)), sep="\n")
    target = os.environ.get(RESULT)
    if target:
        Path(target).write_text(json.dumps(asdict(outcome), indent=2))


def next_commands(outcome: Outcome) -> list[str]:
    """Return the commands that use the model of a run, as they are typed."""
    qdet, run = paths.program("qdet"), named(outcome.folder)
    ui = ui_command(outcome.tracking_uri).removeprefix("qdet ")
    return [*typed.next_commands(run, program=qdet), f"{shlex.quote(qdet)} {ui}"]


def named(folder: str) -> str:
    """Return how a run is named on the command line: by its name in `outputs`, elsewhere by its folder."""
    return Path(folder).name if Path(folder).parent == Path(STORE) else folder


def ui_command(uri: str) -> str:
    """Return the command that shows the runs at a tracking URI in a browser."""
    usual = f"sqlite:///{paths.root() / 'mlflow.db'}"
    return "qdet ui" if uri == usual else shlex.join(["qdet", "ui", "--tracking-uri", mask(uri)])


def ap_table(metrics: Mapping[str, float]) -> str:
    """Return the twelve numbers of COCO in two aligned rows of names and values; `-` without such objects."""
    if not any(name.startswith("val/") for name in metrics):
        return NO_AP
    rows = []
    for kind in ("AP", "AR"):
        names = [name for name in METRICS if name.startswith(kind)]
        values = [metrics.get(f"val/{name}", math.nan) for name in names]
        rows.append("".join(f"{name:>8}" for name in names))
        rows.append("".join(f"{'-' if math.isnan(value) else f'{value:.4f}':>8}" for value in values))
    return "\n".join(rows)


def keep_picture(run_id: str, tracking_uri: str, folder: str) -> str | None:
    """Copy the newest picture of an MLflow run into the run's folder; return its path or URL there."""
    picture = _last_picture(run_id, tracking_uri)
    if picture is None:
        return None
    try:
        store = open_folder(folder)
        store.put(PICTURE, picture.read_bytes())
    except (OSError, ValueError):  # MLflow still has it
        return str(picture)
    return str(store.local / PICTURE) if store.local else str(store.child(PICTURE))


def _facts(outcome: Outcome) -> dict[str, str]:
    facts = {"run": outcome.run}
    if outcome.best is not None:
        ap = "" if outcome.best_ap is None else f" (AP {outcome.best_ap:.4f})"
        facts["best checkpoint"] = f"{paths.shorten(outcome.best)}{ap}"
    if outcome.picture is not None:
        facts["predictions"] = paths.shorten(outcome.picture)
    if outcome.mlflow_run_id is not None:
        facts["MLflow run"] = outcome.mlflow_run_id
    return facts


def _last_picture(run_id: str, tracking_uri: str) -> Path | None:
    """Return the newest picture of an MLflow run as a file, or None where it is not on this machine."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        artifacts = urlsplit(client.get_run(run_id).info.artifact_uri)
    except MlflowException:
        return None
    if artifacts.scheme not in ("", "file"):
        return None
    pictures = sorted(Path(unquote(artifacts.path)).glob("images/*.png"), key=lambda p: p.stat().st_mtime)
    return pictures[-1] if pictures else None
