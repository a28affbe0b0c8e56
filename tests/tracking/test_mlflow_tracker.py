"""Runs in a real MLflow database: what is logged is there, once, also after a resume."""

import json
import logging
import time
from pathlib import Path

import mlflow.data
import numpy as np
import pandas as pd
import pytest

from qdet.tracking import MLflowTracker, NullTracker, Tracker, send_spool
from qdet.tracking.spool import Spool


@pytest.fixture
def uri(database) -> str:
    return f"sqlite:///{database}"


@pytest.fixture
def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def opened(folder: Path, uri: str, name: str, **changes) -> MLflowTracker:
    return MLflowTracker.open(folder, experiment="shapes", run_name=name, tracking_uri=uri, **changes)


def test_a_run_logs_settings_metrics_and_files(tmp_path, uri, client, monkeypatch):
    monkeypatch.setenv("QDET_GIT_COMMIT", "c0ffee")
    monkeypatch.setenv("STORE_TOKEN", "very-hidden-value")
    exported = tmp_path / "exported" / "deep"
    exported.mkdir(parents=True)
    (exported / "model.safetensors").write_bytes(b"\0" * 10)
    tracker = opened(tmp_path / "spool", uri, "whole", tags={"qdet.detector": "AdaMixer"}, system_metrics=0.2)
    assert isinstance(tracker.wait_for_run(60), str)
    tracker.params({f"p{i}": i / 3 for i in range(250)} | {"long": "x" * 9000, "store.password": "hello"})
    tracker.params({"where": "s3://me:pw1234@host/x", "said": "it is very-hidden-value", "made": opened})
    for step in range(5):
        tracker.metrics({"train/loss": 1 / (step + 1), "AP of 50%": step, "bad": float("nan")}, step)
    tracker.dataset("shapes", "a" * 64, "/data/shapes/train", "training", {"images": 7})
    tracker.table({"class": ["cat", "dog"], "AP": [0.5, None]}, "tables/per_class.json")
    tracker.table({"class": ["cat", "dog"], "AP": [0.75, None]}, "tables/per_class.json")
    tracker.picture(np.zeros((40, 600, 3), np.uint8), "val/boxes", 5)
    tracker.text("job = very-hidden-value", "job/adamixer.py")
    tracker.artifact(tmp_path / "exported", "model")
    time.sleep(0.5)
    assert tracker.close("FINISHED", wait=60)

    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "whole"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert run.data.tags["qdet.detector"] == "AdaMixer"
    assert len(run.data.params) == 255
    assert run.data.params["p1"] == repr(1 / 3)
    assert len(run.data.params["long"]) == 6000
    assert run.data.params["store.password"] == "***"
    assert run.data.params["where"] == "s3://me:***@host/x"
    assert run.data.params["said"] == "it is ***"
    assert "0x" not in run.data.params["made"]
    losses = client.get_metric_history(tracker.run_id, "train/loss")
    assert [(m.step, m.value) for m in losses] == [(s, 1 / (s + 1)) for s in range(5)]
    assert len(client.get_metric_history(tracker.run_id, "AP of 50_")) == 5
    assert any(name.startswith("system/cpu_utilization") for name in run.data.metrics)
    dataset = run.inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.dataset.digest) == ("shapes", "a" * 8)
    assert json.loads(dataset.dataset.source)["digest"] == "a" * 64
    assert dataset.tags[0].value == "training"
    assert json.loads(dataset.dataset.profile) == {"images": 7}
    assert mlflow.data.get_source(dataset.dataset).uri == "/data/shapes/train"
    table = Path(client.download_artifacts(tracker.run_id, "tables/per_class.json", str(tmp_path)))
    assert pd.read_json(table, orient="split")["AP"].tolist() == [0.75, pytest.approx(np.nan, nan_ok=True)]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "tables/per_class.json", "type": "table"}
    ]
    images = [f.path for f in client.list_artifacts(tracker.run_id, "images")]
    assert sorted(Path(i).suffix for i in images) == [".png", ".webp"]
    assert all(i.startswith("images/val~boxes+step+5+timestamp+") for i in images)
    text = Path(client.download_artifacts(tracker.run_id, "job/adamixer.py", str(tmp_path))).read_text()
    assert text == "job = ***"
    assert [f.path for f in client.list_artifacts(tracker.run_id, "model/deep")] == [
        "model/deep/model.safetensors"
    ]
    assert not list((tmp_path / "spool" / "files").iterdir())
    assert not (tmp_path / "spool" / "refused.jsonl").exists()
    assert "very-hidden" not in (tmp_path / "spool" / "points.jsonl").read_text()


def test_the_latest_tables_are_shown_however_many_there_are(tmp_path, uri, client):
    """The tag that lists them is as long as a tag may be, which MLflow would cut off in the middle."""
    tracker = opened(tmp_path / "spool", uri, "tables")
    names = [f"{'x' * 200}/{step:03}.json" for step in range(40)]
    for name in names:
        tracker.table({"a": [1]}, name)
    assert tracker.close("FINISHED", wait=120)
    shown = json.loads(client.get_run(tracker.run_id).data.tags["mlflow.loggedArtifacts"])
    assert 20 < len(shown) < 40
    assert [one["path"] for one in shown] == names[-len(shown) :]
    assert not (tmp_path / "spool" / "refused.jsonl").exists()


def test_a_resumed_run_is_the_same_run(tmp_path, uri, client):
    first = opened(tmp_path / "a", uri, "resumed")
    first.params({"lr": 0.1, "epochs": 1})
    first.metrics({"loss": 2.0}, 0)
    assert first.close("FAILED", wait=60)
    assert client.get_run(first.run_id).info.status == "FAILED"

    on_another_machine = opened(tmp_path / "b", uri, "resumed")
    on_another_machine.params({"lr": 0.1, "epochs": 2, "new": 1})
    on_another_machine.metrics({"loss": 1.0}, 1)
    assert on_another_machine.close(wait=60)
    assert on_another_machine.run_id == first.run_id
    run = client.get_run(first.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"lr": "0.1", "epochs": "1", "new": "1"}
    assert run.data.tags["changed.epochs"] == "2"

    by_id = opened(tmp_path / "c", uri, "resumed", run_id=first.run_id)
    by_id.metrics({"loss": 0.5}, 2)
    assert by_id.close("FINISHED", wait=60)
    assert [m.value for m in client.get_metric_history(first.run_id, "loss")] == [2.0, 1.0, 0.5]


def test_steps_that_a_resumed_run_repeats_have_one_point(tmp_path, uri, client):
    first = opened(tmp_path / "worker", uri, "repeats")
    for step in (1, 2, 3):
        first.metrics({"train/loss": 10 - step, "perf/images": step}, step)
    assert first.close(wait=60)
    lost = Spool(tmp_path / "worker")  # the last line that a killed worker wrote and did not send
    at = int(time.time() * 1000)
    lost.append([{"kind": "metrics", "at": at, "step": 4, "values": {"train/loss": 6.0}}])
    lost.close()
    time.sleep(0.05)
    again = opened(tmp_path / "worker", uri, "repeats")
    for step in (2, 3, 4, 5):
        again.metrics({"train/loss": 10 - step, "perf/images": step + 100, "new": 1.0}, step)
    assert again.close("FINISHED", wait=60)

    def points(name: str) -> list[tuple[int, float]]:
        history = client.get_metric_history(again.run_id, name)
        return sorted((point.step, point.value) for point in history)

    assert points("train/loss") == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0), (5, 5.0)]
    assert points("perf/images") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 104.0), (5, 105.0)]
    assert points("new") == [(2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0)]


def test_a_trial_is_nested_under_its_sweep(tmp_path, uri, client):
    sweep = opened(tmp_path / "sweep", uri, "sweep")
    parent = sweep.wait_for_run(60)
    trial = opened(tmp_path / "trial", uri, "trial", parent_run_id=parent)
    assert trial.close("FINISHED", wait=60)
    assert sweep.close("FINISHED", wait=60)
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], filter_string=f"tags.mlflow.parentRunId = '{parent}'")
    assert [run.info.run_id for run in found] == [trial.run_id]


def test_a_killed_process_loses_only_the_line_it_was_writing(tmp_path, uri, client):
    first = opened(tmp_path / "spool", uri, "killed")
    assert first.close(wait=60)
    torn = '{"at": 1, "kind": "metrics", "step": 1, "values": {"loss": 3.0}}\n{"at": 2, "kind": "met'
    with (tmp_path / "spool" / "points.jsonl").open("a") as points:
        points.write(torn)
    second = opened(tmp_path / "spool", uri, "killed")
    second.metrics({"loss": 2.0}, 2)
    assert second.close("KILLED", wait=60)
    assert second.run_id == first.run_id
    assert [m.value for m in client.get_metric_history(first.run_id, "loss")] == [3.0, 2.0]
    assert client.get_run(first.run_id).info.status == "KILLED"


def test_a_point_that_mlflow_refuses_is_set_aside_and_others_arrive(tmp_path, uri, client, caplog):
    tracker = opened(tmp_path / "spool", uri, "refused")
    tracker.metrics({"loss": 1.0}, 1)
    tracker.metrics({"loss": 1.0}, 2**70)
    tracker.metrics({"loss": 3.0}, 3)
    with caplog.at_level(logging.WARNING):
        assert tracker.close("FINISHED", wait=60)
    assert [m.value for m in client.get_metric_history(tracker.run_id, "loss")] == [1.0, 3.0]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert len((tmp_path / "spool" / "refused.jsonl").read_text().splitlines()) == 1
    assert "refuses metrics" in caplog.text


def test_two_processes_never_share_a_spool(tmp_path, uri):
    held = Spool(tmp_path / "spool")
    tracker = opened(tmp_path / "spool", uri, "beside")
    assert tracker.close(wait=60)
    held.close()
    assert [p.name for p in (tmp_path / "spool").glob("process-*")]
    assert send_spool(tmp_path / "spool") == 0


def test_missing_files_do_not_stop_training(tmp_path, uri, caplog):
    tracker = opened(tmp_path / "spool", uri, "files")
    tracker.artifact(tmp_path / "nothing.txt")
    tracker.picture(tmp_path / "nothing.png", "p", 0)
    assert "nothing.txt" in caplog.text
    assert tracker.close("FINISHED", wait=60)


def test_null_tracker_takes_the_same_calls():
    tracker: Tracker = NullTracker()
    assert tracker.run_id is None
    names = {name for name in vars(Tracker) if not name.startswith("_")}
    for kind in (NullTracker, MLflowTracker):
        assert names <= set(dir(kind))
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.close("FINISHED")


def test_large_files_are_linked_not_copied(tmp_path):
    spool = Spool(tmp_path / "spool")
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(b"1" * (5 << 20))
    small.write_bytes(b"1")
    assert (spool.folder / spool.hold("a", large)).stat().st_nlink == 2
    assert (spool.folder / spool.hold("a", small)).stat().st_nlink == 1
    spool.close()


def test_processes_that_create_a_run_at_once_end_up_in_one(uri, client):
    from qdet.tracking.mlflow_run import find_or_create_run

    about = {"experiment": "race", "run_name": "r", "tags": {}, "created": 1000}
    found = find_or_create_run(client, about, uri)

    class Late:
        """Sees no run at first, as if the other process had created it in between."""

        blind = True

        def __getattr__(self, name: str):
            return getattr(client, name)

        def search_runs(self, *args, **named):
            if self.blind:
                self.blind = False
                return []
            return client.search_runs(*args, **named)

    assert find_or_create_run(Late(), about, uri).info.run_id == found.info.run_id
    assert len(client.search_runs([found.info.experiment_id])) == 1


def test_a_run_that_finishes_drops_the_cause_of_an_earlier_death(tmp_path, uri, client):
    first = opened(tmp_path / "one", uri, "twice")
    first.tags({"qdet.cause": "out of memory"})
    assert first.close("KILLED", wait=60)
    assert client.get_run(first.run_id).data.tags["qdet.cause"] == "out of memory"
    second = opened(tmp_path / "two", uri, "twice", run_id=first.run_id)
    assert second.close("FINISHED", wait=60)
    found = client.get_run(first.run_id)
    assert found.info.status == "FINISHED"
    assert "qdet.cause" not in found.data.tags
