"""Runs of a project as MLflow has them."""

from pathlib import Path
from typing import Any


def find_run(project: Path, name: str) -> tuple[Any, Any]:
    """Return a client and the only run of this name."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = [run for run in client.search_runs(experiments) if run.info.run_name == name]
    return client, run


def ledgers(project: Path, name: str) -> list[tuple[int, int]]:
    """Return how many images every epoch of a run lost and duplicated."""
    client, run = find_run(project, name)
    received, lost, doubled = (
        {point.step: int(point.value) for point in client.get_metric_history(run.info.run_id, f"data/{what}")}
        for what in ("received", "lost", "duplicated")
    )
    assert lost.keys() | doubled.keys() <= received.keys()
    return [(lost.get(step, 0), doubled.get(step, 0)) for step in sorted(received)]


def loss_curve(project: Path, name: str, steps: int) -> dict[int, float]:
    """Return the loss by step of a finished run, after checking that MLflow has each step once."""
    client, run = find_run(project, name)
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in points) == list(range(1, steps + 1))
    return {point.step: point.value for point in points}
