"""Print the summary of a run: AP, where the picture is, how to open MLflow; also write it as JSON."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from qdet.launching import paths
from qdet.masking import mask

RESULT = "QDET_RESULT"
"""Environment variable: a file that gets the outcome as JSON, for the program that started the job."""


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
    """A file of predictions beside ground truth, where it lies on this machine."""


def print_summary(outcome: Outcome) -> None:
    """Print the outcome, and write it where QDET_RESULT says."""
    print()
    print(ap_table(outcome.metrics))
    if outcome.picture:
        print(f"predictions beside ground truth: {outcome.picture}")
    print(f"use the model: qdet predict {outcome.folder} photo.jpg --to predictions")
    if outcome.mlflow_run_id:
        print(f"see it in MLflow, with all other runs: {ui_command(outcome.tracking_uri)}")
    target = os.environ.get(RESULT)
    if target:
        Path(target).write_text(json.dumps(asdict(outcome), indent=2))


def ui_command(uri: str) -> str:
    """Return the command that shows the runs at a tracking URI in a browser."""
    usual = f"sqlite:///{paths.root() / 'mlflow.db'}"
    return "qdet ui" if uri == usual else shlex.join(["qdet", "ui", "--tracking-uri", mask(uri)])


def ap_table(metrics: Mapping[str, float]) -> str:
    """Return the twelve numbers of COCO in two aligned rows of names and values."""
    rows = []
    for kind in ("AP", "AR"):
        named = {n.removeprefix("val/"): v for n, v in metrics.items() if n.startswith(f"val/{kind}")}
        rows.append("".join(f"{name:>8}" for name in named))
        rows.append("".join(f"{value:8.4f}" for value in named.values()))
    return "\n".join(row for row in rows if row)


def last_picture(run_id: str, tracking_uri: str) -> str | None:
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
    return str(pictures[-1]) if pictures else None
