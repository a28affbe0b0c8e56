"""What a store has of its runs: a row for each, or all about one."""

import json
import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qdet.checkpoint import Manifest, RunFolder, open_folder
from qdet.checkpoint.run_folder import METRIC, best_of
from qdet.checkpoint.run_names import RECORD, list_runs, require_folder
from qdet.console import print_line
from qdet.launching.paths import shorten
from qdet.launching.runs import record
from qdet.launching.runs.report import named
from qdet.storage import Folder
from qdet.storage.parsing import parse_json


@dataclass(frozen=True)
class RunInfo:
    """What is known of one run from its folder alone; None of what is not."""

    name: str
    folder: str
    """Path or URL."""
    job: str | None
    status: str | None
    started: str | None
    """ISO 8601, in UTC."""
    step: int | None
    """That of the newest checkpoint."""
    best_step: int | None
    best_ap: float | None
    bytes: int
    """Size of all checkpoints."""
    mlflow_run_id: str | None
    tracking_uri: str | None
    hash: str | None
    checkpoints: tuple[dict[str, Any], ...]
    """Step, AP, bytes, ranks and ZeRO stage of each, oldest first."""


def collect(store: str) -> list[RunInfo]:
    """Return the runs of a store, the latest last.

    Raises:
        CheckpointError: Nothing installed here opens such a URL.
    """
    folder = open_folder(store)
    found = [look(folder.child(name)) for name in list_runs(folder)]
    return sorted(found, key=lambda run: (run.started or "", run.name))


def find(run: str) -> RunInfo:
    """Return all about one run, named as anywhere.

    Raises:
        CheckpointError: There is no such run.
        ConfigError: There are several.
    """
    return look(require_folder(run))


def look(folder: Folder) -> RunInfo:
    """Return what the folder of a run says; checkpoints are not verified."""
    known = _read_record(folder)
    manifests = RunFolder(folder).manifests()
    best = best_of(manifests)
    ap = None if best is None else best.metrics.get(METRIC)
    return RunInfo(
        name=folder.name,
        folder=str(folder),
        job=known.get("job"),
        status=known.get("status"),
        started=known.get("started") or _written(folder),
        step=max(manifests, default=None),
        best_step=None if best is None or ap is None else best.step,
        best_ap=ap,
        bytes=sum(manifest.size for manifest in manifests.values()),
        mlflow_run_id=known.get("mlflow_run_id"),
        tracking_uri=known.get("tracking_uri"),
        hash=known.get("hash"),
        checkpoints=tuple(_describe(manifests[step]) for step in sorted(manifests)),
    )


def show_list(runs: list[RunInfo], store: str, console: Console) -> None:
    """Print a row for each run."""
    if not runs:
        print_line(console, f"{store} holds no runs yet")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("run", "job", "status", "step", METRIC, "started", "size"):
        justify = "right" if title in ("step", METRIC, "size") else "left"
        table.add_column(title, justify=justify, overflow="fold", no_wrap=title != "run")
    for run in runs:
        table.add_row(
            *(Text(one or "-") for one in (run.name, run.job, run.status)),
            *(_shown(run.step), _shown(run.best_ap), _local_time(run.started), _megabytes(run.bytes)),
        )
    console.print(table)


def show_one(run: RunInfo, console: Console) -> None:
    """Print all about a run, and how it is used."""
    facts = {
        "run": run.name,
        "folder": shorten(run.folder),
        "job": run.job,
        "status": run.status,
        "started": _local_time(run.started),
        "MLflow run": run.mlflow_run_id,
        "MLflow": run.tracking_uri,
    }
    for name, value in facts.items():
        print_line(console, f"{name:<12}{value or '-'}")
    table = Table(box=None, pad_edge=False)
    for title in ("checkpoint", METRIC, "ranks", "ZeRO", "size", ""):
        table.add_column(title, justify="left" if title in ("checkpoint", "") else "right")
    for one in run.checkpoints:
        mark = "best" if one["step"] == run.best_step else ""
        name, size = f"step_{one['step']:06d}", _megabytes(one["bytes"])
        table.add_row(name, _shown(one["ap"]), str(one["world_size"]), str(one["zero"]), size, mark)
    console.print()
    console.print(table if run.checkpoints else "no checkpoint yet")
    use = shlex.join(["qdet", "predict", named(shorten(run.folder)), "photo.jpg"])
    print_line(console, f"\nuse it: {use}")


def as_json(found: RunInfo | list[RunInfo]) -> str:
    """Return one run, or an object with a list of them, as JSON."""
    content = {"runs": [asdict(run) for run in found]} if isinstance(found, list) else asdict(found)
    return json.dumps(content, indent=1)


def _describe(manifest: Manifest) -> dict[str, Any]:
    return {
        "step": manifest.step,
        "ap": manifest.metrics.get(METRIC),
        "bytes": manifest.size,
        "world_size": manifest.world_size,
        "zero": manifest.zero,
    }


def _read_record(folder: Folder) -> dict[str, Any]:
    """Return the record of a run; nothing where it has none that can be read."""
    try:
        content = parse_json(folder.read(RECORD))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _written(folder: Folder) -> str | None:
    try:
        return folder.modified(record.RECORD).astimezone(UTC).isoformat(timespec="seconds")
    except (OSError, NotImplementedError):  # some of fsspec's file systems keep no times
        return None


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _local_time(text: str | None) -> str:
    """Return a time as this machine's clock shows it, to the minute."""
    return "-" if text is None else datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
