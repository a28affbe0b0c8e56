"""`qdet register`: names and aliases in MLflow's registry, and what it says of bad input."""

import json
import shutil
from pathlib import Path

import pytest

import qdet
from qdet.checkpoint import RunFolder, open_folder
from qdet.errors import ConfigError, TrackingError
from qdet.launching import paths
from qdet.launching.commands.tracking.registration import register
from qdet.launching.runs import record
from qdet.tracking import MLflowTracker
from qdet.training.checkpointing.model_log import log_models
from tests.support import small_models


@pytest.fixture(scope="module")
def made(_empty_database, tmp_path_factory) -> Path:
    """A folder with a run in `outputs`, and its models in MLflow, whose address the run's record has."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(_empty_database, root / "mlflow.db")
    uri = f"sqlite:///{root}/mlflow.db"
    folder = root / "outputs" / "tiny-otter"
    small_models.write_checkpoint(folder, step=4, seed=1, metrics={"val/AP": 0.5})
    small_models.write_checkpoint(folder, step=8, seed=2, metrics={"val/AP": 0.25})
    tracker = MLflowTracker.open(root / "spool", experiment="e", run_name="tiny-otter", tracking_uri=uri)
    log_models(RunFolder(open_folder(folder)), tracker)
    assert tracker.close("FINISHED", wait=60)
    known = record.RunRecord(name="tiny-otter", mlflow_run_id=tracker.run_id, tracking_uri=uri)
    record.write(str(root / "outputs"), known)
    return root


@pytest.fixture
def project(made: Path, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.delenv(paths.TRACKING, raising=False)
    monkeypatch.setenv(paths.ROOT, str(made))
    return made


def run_id(project: Path) -> str:
    return json.loads((project / "outputs" / "tiny-otter" / "run.json").read_text())["mlflow_run_id"]


def test_a_registered_model_is_loaded_by_its_alias(project):
    first = register("outputs/tiny-otter", name="shapes", alias="champion", checkpoint="best")
    assert (first.version, first.step) == ("1", "4")
    assert "qdet predict models:/shapes@champion photo.jpg" in first.report()
    assert qdet.load("models:/shapes@champion").description.step == 4
    for again in ("tiny-otter", run_id(project), "outputs/tiny-otter/step_000004"):
        assert register(again, name="shapes", alias=None, checkpoint="best").version == "1"
    last = register("tiny-otter", name="shapes", alias="newest", checkpoint="last")
    assert (last.version, last.step) == ("2", "8")
    register("tiny-otter", name="shapes", alias="champion", checkpoint="last")
    assert qdet.load("models:/shapes@champion").description.step == 8
    assert qdet.load("models:/shapes/1").description.step == 4


def test_a_run_is_found_by_name_where_its_record_has_no_id(project, tmp_path, monkeypatch):
    known = record.RunRecord(name="tiny-otter", mlflow_run_id=None, tracking_uri="")
    record.write(str(tmp_path / "elsewhere"), known)
    where = str(tmp_path / "elsewhere" / "tiny-otter")
    assert register(where, name="of-record", alias=None, checkpoint="best").version == "1"
    monkeypatch.chdir(tmp_path)  # where there is no folder outputs
    assert register("tiny-otter", name="of-name", alias=None, checkpoint="best").version == "1"


@pytest.mark.parametrize(
    ("source", "name", "alias", "error", "said"),
    [
        ("tiny-oter", "shapes", None, TrackingError, "no run tiny-oter. Did you mean tiny-otter"),
        ("0" * 32, "shapes", None, TrackingError, "0{32}"),
        ("outputs", "shapes", None, ConfigError, "not the folder of a run"),
        ("runs:/0123", "shapes", None, ConfigError, "without a prefix"),
        ("tiny-otter", "sha/pes", None, ConfigError, "--name 'sha/pes'"),
        ("tiny-otter", " ", None, ConfigError, "not empty"),
        ("tiny-otter", "shapes", "the best", ConfigError, "--alias 'the best'"),
        ("tiny-otter", "shapes", "v2", ConfigError, "keeps that word"),
        ("tiny-otter", "shapes", "Latest", ConfigError, "keeps that word"),
    ],
)
@pytest.mark.usefixtures("project")
def test_bad_input_is_named(source, name, alias, error, said):
    with pytest.raises(error, match=said):
        register(source, name=name, alias=alias, checkpoint="best")


def test_a_run_without_a_model_says_why(project):
    tracker = MLflowTracker.open(
        project / "other", experiment="e", run_name="running", tracking_uri=paths.tracking_uri()
    )
    assert tracker.close(wait=60)
    with pytest.raises(TrackingError, match=r"running has no model at .*: it is still running"):
        register("running", name="shapes", alias=None, checkpoint="best")


def test_a_server_that_does_not_answer_is_named(project, monkeypatch):
    monkeypatch.setenv(paths.TRACKING, "http://me:pw123456@127.0.0.1:9")
    with pytest.raises(TrackingError) as caught:
        register("tiny-otter", name="shapes", alias=None, checkpoint="best")
    assert str(caught.value).startswith("http://me:***@127.0.0.1:9 does not answer; start the server")
