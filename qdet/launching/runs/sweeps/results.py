"""What came of a sweep, in its MLflow run: table, plots, and the best settings with a job file."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from qdet.config import override
from qdet.job import Sweep
from qdet.launching.runs import note
from qdet.launching.runs.sweeps.curves import Curve
from qdet.launching.runs.sweeps.job_source import render_job
from qdet.launching.runs.sweeps.plots import draw_plots
from qdet.launching.runs.sweeps.session import SweepSession
from qdet.launching.runs.sweeps.table import TrialRow, best_first, best_of
from qdet.launching.runs.typed import show_value, train_command

PLOTS = "plots"
"""Folder of the plots among the files of the run."""


def log_results(session: SweepSession, rows: Sequence[TrialRow], curves: Sequence[Curve]) -> None:
    """Log the table of results and its plots, and the best of them as metric, settings and job file.

    Args:
        session: The open sweep.
        rows: Of all trials.
        curves: Of those that were evaluated.
    """
    tracker, sweep = session.tracker, session.sweep
    ranked, best = best_first(rows, sweep.mode), best_of(rows, sweep.mode)
    columns: dict[str, Sequence[object]] = {
        "trial": [row.trial for row in ranked],
        sweep.metric: [row.metric for row in ranked],
        "state": [row.state for row in ranked],
    }
    # MLflow's page shows nothing in a column whose name has a dot.
    columns |= {path.replace(".", "/"): [row.settings.get(path) for row in ranked] for path in sweep.space}
    tracker.table(columns, "trials.json")
    if best is not None:
        _log_best(session, best)
    with tempfile.TemporaryDirectory(prefix="qdet-plots-") as folder:
        plots = draw_plots(curves, sweep, Path(folder))
        for file in plots:
            tracker.artifact(file, PLOTS)
    shown = [] if session.mlflow_run_id is None else [file.name for file in plots]
    parts = [
        *([] if best is None else _describe_best(best, sweep)),
        note.lay_out(*_cells(ranked, sweep)),
        *(f"![{name}](get-artifact?path={PLOTS}/{name}&run_uuid={session.mlflow_run_id})" for name in shown),
        session.about,
    ]
    tracker.tags({note.TAG: "\n\n".join(filter(None, parts))})


def _log_best(session: SweepSession, best: TrialRow) -> None:
    tracker, job, metric = session.tracker, session.job, session.sweep.metric
    tracker.metrics({f"best/{metric}": best.metric or 0.0}, best.step or 0)
    settings = {f"qdet.best.{path}": show_value(value, 4) for path, value in best.settings.items()}
    tracker.tags({"qdet.best_trial": best.trial} | settings)
    tracker.text(json.dumps(asdict(best), indent=1, default=repr), "best/best.json")
    about = f"{job.name} as in {best.trial}, the best of {session.file.name}: {metric} {best.metric:.4f}."
    tracker.text(render_job(override(job, best.settings), about), f"best/{job.name}.py")


def _describe_best(best: TrialRow, sweep: Sweep) -> list[str]:
    command = note.show_command(train_command(best.settings))
    return [f"Best: {best.trial}, {sweep.metric} {best.metric:.4f}. Train it:", command]


def _cells(ranked: Sequence[TrialRow], sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table, as text."""
    rows = [
        [
            row.trial,
            "-" if row.metric is None else f"{row.metric:.4f}",
            row.state,
            *(show_value(row.settings.get(path, "-")) for path in sweep.space),
        ]
        for row in ranked
    ]
    return ["trial", sweep.metric, "state", *sweep.space], rows
