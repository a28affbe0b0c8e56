"""Models in MLflow's format: they find what `qdet.load` finds, and count only once all of them is there."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import qdet
from qdet.checkpoint import Checkpoint, RunFolder, open_folder
from qdet.errors import CheckpointError
from qdet.exporting.mlflow_model import check_mlflow_model, write_mlflow_model
from qdet.tracking import MLflowTracker, NullTracker, send_spool
from qdet.training.checkpointing.model_log import choose_models, log_models
from tests.support import small_models

ALL = {"score": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose earlier checkpoint is the better one."""
    folder = tmp_path_factory.mktemp("outputs") / "tiny-run"
    small_models.write_checkpoint(folder, step=4, seed=1, averaged=True, metrics={"val/AP": 0.5})
    small_models.write_checkpoint(folder, step=8, seed=2, metrics={"val/AP": 0.25})
    return folder


@pytest.fixture
def uri(database, monkeypatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    return f"sqlite:///{database}"


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, hw in zip(files, ((40, 60), (64, 64), (90, 33)), strict=True):
        Image.fromarray(rng.integers(0, 255, (*hw, 3), dtype=np.uint8)).save(file)
    return files


def log(run: Path, spool: Path, uri: str) -> str:
    """Log the models of a run as training does at its end; return the MLflow run's id."""
    tracker = MLflowTracker.open(spool, experiment="shapes", run_name="tiny-run", tracking_uri=uri)
    tracker.dataset("train", "b" * 64, "/data/train", "training")
    tracker.dataset("val", "a" * 64, "/data/val", "validation")
    tracker.metrics({"val/AP": 0.5}, 4)
    tracker.metrics({"val/AP": 0.25}, 8)
    log_models(RunFolder(open_folder(run)), tracker)
    assert tracker.close("FINISHED", wait=60)
    assert tracker.run_id
    return tracker.run_id


def assert_same(table: pd.DataFrame, found: list[qdet.Detections]) -> None:
    assert len(table) == len(found)
    for row, one in zip(table.itertuples(), found, strict=True):
        np.testing.assert_array_equal(np.reshape(row.boxes, (-1, 4)), one.boxes_xyxy)
        np.testing.assert_array_equal(np.array(row.scores, np.float32), one.scores)
        assert row.labels == one.labels.tolist()
        assert row.names == one.names


def test_a_logged_model_finds_what_the_run_finds(run, tmp_path, uri, photos):
    import mlflow

    run_id = log(run, tmp_path / "spool", uri)
    mlflow.set_tracking_uri(uri)
    model, found = (
        mlflow.pyfunc.load_model(f"runs:/{run_id}/model"),
        qdet.load(run).predict(photos, score=0.0),
    )
    paths, encoded = list(map(str, photos)), [file.read_bytes() for file in photos]
    assert len(found[0]) > 3
    assert_same(model.predict(pd.DataFrame({"path": paths}), params=ALL), found)
    assert_same(model.predict(pd.DataFrame({"image": encoded}), params=ALL), found)
    mixed = pd.DataFrame({"path": [paths[0], None, paths[2]], "image": [None, encoded[1], None]})
    assert_same(model.predict(mixed, params=ALL), found)
    arrays = [np.asarray(Image.open(photo)) for photo in photos]
    assert_same(model.unwrap_python_model().detect(arrays, score=0.0), found)
    cut = float(found[0].scores[1])
    few = model.predict(pd.DataFrame({"path": paths}), params={"score": cut})
    assert_same(few, [one.above(cut) for one in found])
    last = mlflow.pyfunc.load_model(f"runs:/{run_id}/last")
    assert_same(
        last.predict(pd.DataFrame({"path": paths}), params=ALL),
        qdet.load(run / "step_000008").predict(photos, score=0.0),
    )


def test_models_are_linked_to_run_data_and_metrics(run, tmp_path, uri):
    from mlflow import MlflowClient

    run_id = log(run, tmp_path / "spool", uri)
    client = MlflowClient(tracking_uri=uri)
    logged = client.get_run(run_id)
    models = {m.name: m for m in client.search_logged_models([logged.info.experiment_id])}
    assert {name: (m.status, m.params["step"], m.params["weights"]) for name, m in models.items()} == {
        "model": ("READY", "4", "averaged"),
        "last": ("READY", "8", "trained"),
    }
    assert {(o.model_id, o.step) for o in logged.outputs.model_outputs} == {
        (models["model"].model_id, 4),
        (models["last"].model_id, 8),
    }
    for name, ap in (("model", 0.5), ("last", 0.25)):
        (metric,) = models[name].metrics
        assert (metric.key, metric.value) == ("val/AP", ap)
        assert (metric.dataset_name, metric.dataset_digest) == ("val", "a" * 8)
    points = client.get_metric_history(run_id, "val/AP")  # the models' points are the run's own
    assert sorted((m.step, m.value) for m in points) == [(4, 0.5), (8, 0.25)]


def test_no_file_of_a_model_is_a_pickle(run, tmp_path):
    model = write_mlflow_model(Checkpoint(open_folder(run / "step_000004")), tmp_path / "model")
    files = [file for file in model.folder.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {"", ".safetensors", ".json", ".yaml", ".txt", ".py"}
    for file in files:
        head = file.read_bytes()[:2]
        assert not zipfile.is_zipfile(file)  # as torch.save writes
        assert head[:1] != b"\x80"  # pickle's first byte from protocol 2 on
    assert not list(tmp_path.glob("*weights*"))


def test_a_model_that_finds_something_else_does_not_count(run, tmp_path, uri, capsys, monkeypatch):
    from mlflow import MlflowClient

    right = Checkpoint(open_folder(run / "step_000004"))
    wrong = Checkpoint(open_folder(run / "step_000008"))
    model = write_mlflow_model(right, tmp_path / "model")
    check_mlflow_model(model, right)
    with pytest.raises(CheckpointError, match="finds other boxes"):
        check_mlflow_model(model, wrong)
    (model.folder / "artifacts" / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not load"):
        check_mlflow_model(model, right)

    def fail(*_):
        raise CheckpointError("it finds other boxes")

    monkeypatch.setattr("qdet.exporting.mlflow_model.check_mlflow_model", fail)
    run_id = log(run, tmp_path / "spool", uri)
    client = MlflowClient(tracking_uri=uri)
    assert not client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert "MLflow gets no model of this run: it finds other boxes" in capsys.readouterr().out


def test_a_model_waits_for_a_server_that_is_away(run, tmp_path, uri):
    from mlflow import MlflowClient

    gone = tmp_path / "gone"
    shutil.copytree(run, gone)
    tracker = MLflowTracker.open(
        tmp_path / "spool", experiment="late", run_name="r", tracking_uri="http://127.0.0.1:1"
    )
    log_models(RunFolder(open_folder(gone)), tracker)
    shutil.rmtree(gone)  # the spool holds the whole models
    assert not tracker.close("FINISHED", wait=10)
    shutil.copytree(tmp_path / "spool", tmp_path / "later")
    assert send_spool(tmp_path / "later", uri) == 4  # begin, two models, end
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("late").experiment_id
    assert [m.status for m in client.search_logged_models([experiment])] == ["READY", "READY"]
    assert not list((tmp_path / "later" / "files").iterdir())


def test_a_delivery_cut_off_is_continued(run, tmp_path, uri, monkeypatch):
    from mlflow import MlflowClient

    whole, calls = MlflowClient.log_model_artifacts, []

    def cut_off(self, model_id, folder):
        calls.append(model_id)
        if len(calls) == 1:
            raise ConnectionError("cut off")
        whole(self, model_id, folder)

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", cut_off)
    run_id = log(run, tmp_path / "spool", uri)
    assert calls[0] == calls[1]
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_run(run_id).info.experiment_id
    assert [m.status for m in client.search_logged_models([experiment])] == ["READY", "READY"]
    assert len(client.get_run(run_id).outputs.model_outputs) == 2


def test_the_best_and_the_last(run, tmp_path):
    assert choose_models(RunFolder(open_folder(run))) == {"model": 4, "last": 8}
    small_models.write_checkpoint(tmp_path / "r", step=3, seed=1)
    small_models.write_checkpoint(tmp_path / "r", step=6, seed=1)
    assert choose_models(RunFolder(open_folder(tmp_path / "r"))) == {"model": 6}
    small_models.write_checkpoint(tmp_path / "r", step=9, seed=1, metrics={"val/AP": 0.1})
    (tmp_path / "r" / "step_000012").mkdir()  # not finished
    assert choose_models(RunFolder(open_folder(tmp_path / "r"))) == {"model": 9}
    assert choose_models(RunFolder(open_folder(tmp_path / "none"))) == {}


def test_ranks_without_a_tracker_write_nothing(run, monkeypatch):
    monkeypatch.setattr("qdet.exporting.mlflow_model.write_mlflow_model", lambda *_: pytest.fail("written"))
    log_models(RunFolder(open_folder(run)), NullTracker())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"photo": ["a.png"]}), "columns photo; give path or image"),
        (pd.DataFrame({"path": [None], "image": [None]}), "row 0 must fill one of path and image"),
        (pd.DataFrame({"path": ["not-there.png"]}), "not-there.png"),
        (pd.DataFrame({"image": [b"hello"]}), "image"),
    ],
)
def test_tables_without_images_are_named(run, table, said):
    from qdet.errors import DataError
    from qdet.exporting.pyfunc import DetectorModel

    model = DetectorModel()
    model._model = qdet.load(run)
    with pytest.raises(DataError, match=said):
        model.predict(None, table)
