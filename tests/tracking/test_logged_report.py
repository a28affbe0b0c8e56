"""A report of `qdet.evaluate` in an MLflow run that has ended."""

from pathlib import Path

import pytest

import qdet
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import TrackingError
from tests.support.untrained_model import write_untrained


def test_a_report_is_logged_to_a_run(demo_shards: Path, database: Path, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{database}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.set_terminated(run)
    shards = ShardSet.open(demo_shards / "val")
    report = qdet.evaluate(write_untrained(tmp_path / "step_000007", shards.categories.names), shards)
    report.log(run)
    files = {f.path for f in client.list_artifacts(run, "evaluation")}
    assert files == {"evaluation/report.json", "evaluation/report.html"}
    (point,) = client.get_metric_history(run, "evaluation/AR100")
    assert (point.value, point.step) == (report.coco.AR100, 7)
    assert client.get_run(run).info.status == "FINISHED"
    with pytest.raises(TrackingError, match="run 0123"):
        report.log("0123")
