"""Loading: which checkpoint of a run, exported files, MLflow, URLs; what is not there or does not fit."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

import qdet
from qdet.checkpoint import Checkpoint, open_folder
from qdet.checkpoint.reading import export
from qdet.config import override
from qdet.errors import CheckpointError, ConfigError, TrackingError
from qdet.inference import build
from qdet.inference.load import require_known
from qdet.tracking import tracking_uri
from qdet.tracking.registry import find_run_id
from tests.support import small_models


def assert_weights(model: qdet.Model, detector: torch.nn.Module) -> None:
    want = detector.state_dict()
    have = model.detector.state_dict()
    assert have.keys() == want.keys()
    assert all(torch.equal(have[name], want[name]) for name in want)


def test_a_run_gives_the_averaged_weights_of_its_best_checkpoint(run, tmp_path):
    said: list[str] = []
    model = qdet.load(run, announce=said.append)
    assert_weights(model, small_models.write_checkpoint(tmp_path, step=4, seed=1, averaged=True))
    assert model.description.step == 4
    assert model.description.averaged
    assert model.classes.names == small_models.NAMES
    assert "averaged weights after step 4, val/AP 0.5000" in said[0]


def test_the_trained_weights_instead_of_their_average(run):
    model = qdet.load(run, averaged=False)
    assert not model.description.averaged
    assert_weights(model, small_models.build(seed=101))


def test_one_checkpoint(run, tmp_path):
    assert_weights(qdet.load(run / "step_000008"), small_models.build(seed=2))


def test_a_run_that_was_never_evaluated_gives_its_newest(tmp_path):
    small_models.write_checkpoint(tmp_path / "r", step=2, seed=1)
    newest = small_models.write_checkpoint(tmp_path / "r", step=3, seed=2)
    assert_weights(qdet.load(tmp_path / "r"), newest)


def test_a_damaged_best_checkpoint_is_passed_over_and_said(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    weights = next((copy / "step_000004").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said: list[str] = []
    assert_weights(qdet.load(copy, announce=said.append), small_models.build(seed=2))
    assert "passed over" in said[0]
    assert weights.name in said[0]


def test_a_run_is_found_by_its_name_in_outputs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "outputs" / "mine")
    assert qdet.load("mine").description.step == 4
    with pytest.raises(CheckpointError, match="Did you mean mine"):
        qdet.load("mime")


def test_an_exported_file_gives_the_same_weights(run, tmp_path):
    saved = Checkpoint(open_folder(run / "step_000004"))
    export(saved, tmp_path / "model.safetensors")
    for where in (tmp_path / "model.safetensors", tmp_path):
        assert_weights(qdet.load(where), qdet.load(run).detector)
    (tmp_path / "model.json").unlink()
    with pytest.raises(CheckpointError, match=r"model\.json"):
        qdet.load(tmp_path / "model.safetensors")


def test_behind_a_url(run, bucket):
    from qdet.storage import Folder

    shelf = Folder.open(f"{bucket}/runs/tiny")
    for file in run.rglob("*"):
        if file.is_file():
            shelf.put(str(file.relative_to(run)), file.read_bytes())
    assert_weights(qdet.load(f"{bucket}/runs/tiny"), qdet.load(run).detector)
    export(Checkpoint(open_folder(run / "step_000004")), file := run.parent / "remote" / "model.safetensors")
    for name in ("model.safetensors", "model.json"):
        Folder.open(f"{bucket}/exported").put(name, file.with_name(name).read_bytes())
    assert_weights(qdet.load(f"{bucket}/exported/model.safetensors"), qdet.load(run).detector)


def test_mlflow_runs_and_registered_models(run, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    info = client.create_run(experiment).info
    export(Checkpoint(open_folder(run / "step_000004")), tmp_path / "upload" / "model.safetensors")
    client.log_artifacts(info.run_id, str(tmp_path / "upload"), "model")
    client.create_registered_model("shapes")
    version = client.create_model_version("shapes", f"{info.artifact_uri}/model", info.run_id)
    client.set_registered_model_alias("shapes", "best", version.version)
    names = (info.run_id, f"runs:/{info.run_id}", f"runs:/{info.run_id}/model", "models:/shapes@best",
             f"models:/shapes/{version.version}")  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in names:
        said: list[str] = []
        model = qdet.load(name, announce=said.append)
        assert_weights(model, qdet.load(run).detector)
        assert said[0].startswith(f"{name}: averaged weights after step 4")
        assert model.description.source == name
    assert not list((tmp_path / "temporary").glob("qdet-*"))
    for name in ("models:/shapse@best", "models:/shapes@worst", "runs:/0123", f"runs:/{info.run_id}/images"):
        with pytest.raises(TrackingError, match=name):
            qdet.load(name)


def test_reading_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("models:/shapes@best", "runs:/0123", "0" * 32):
        with pytest.raises(ConfigError, match=f"{tmp_path}/mlflow.db is not there"):
            qdet.load(name)
    with pytest.raises(ConfigError, match="is not there: no run was logged"):
        find_run_id("tiny-otter", tracking_uri())
    assert not list(tmp_path.iterdir())


def test_mlflow_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI"):
        qdet.load("models:/shapes@best")


def test_a_checkpoint_of_another_version_is_said_to_be_one(run, tmp_path):
    export(Checkpoint(open_folder(run / "step_000004")), tmp_path / "model.safetensors")
    about = json.loads((tmp_path / "model.json").read_text())
    for change, said in (
        ({"detector.queries_of_the_future": 1}, "queries_of_the_future"),
        ({"detector": "FutureDETRConfig"}, "FutureDETRConfig"),
        ({"detector.queries": 11}, "another model"),
    ):
        (tmp_path / "model.json").write_text(json.dumps(about | {"job": about["job"] | change}))
        with pytest.raises(CheckpointError, match=said):
            qdet.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "nonsense", '{"job": 1, "categories": 2, "step": 3}', "[" * 9999]
)
def test_a_description_that_is_none(tmp_path, text):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.(json|safetensors)"):
        qdet.load(tmp_path / "model.safetensors")


def test_what_is_no_model(tmp_path, run):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "weights.pth").write_bytes(b"x")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "going" / "step_000004").mkdir(parents=True)
    for where, said in {
        tmp_path / "nowhere": "not there",
        tmp_path / "photo.jpg": "no model",
        tmp_path / "weights.pth": "qdet convert",
        tmp_path / "hub": "qdet convert",
        tmp_path / "empty": "holds no model",
        tmp_path / "going": "no complete checkpoint",
        run.parent: "give one of them",
    }.items():
        with pytest.raises(CheckpointError, match=said):
            qdet.load(where)


def test_devices(run):
    assert qdet.load(run, device="cpu").runner.device == torch.device("cpu")
    for device in ("cuda:97", "nonsense"):
        with pytest.raises(ConfigError, match=device):
            qdet.load(run, device=device)


def test_importing_qdet_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, qdet; assert 'torch' not in sys.modules; print(sorted(dir(qdet)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "'load'" in done.stdout


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="precision must be one of auto, bf16, fp32, got 'fp16'"):
        require_known("fp16")


@pytest.mark.parametrize("emulates", [False, True])
@pytest.mark.parametrize("trained", ["bf16", "fp32"])
def test_it_computes_as_in_training_but_never_emulates(tmp_path, monkeypatch, trained, emulates):
    monkeypatch.setattr(build, "name_emulator", lambda device: "an old CPU" if emulates else "")
    job = override(small_models.TINY, {"train.precision": trained})
    small_models.write_checkpoint(tmp_path / "r", step=2, job=job)
    images, sizes = torch.full((1, 3, 64, 64), 99, dtype=torch.uint8), torch.tensor([[64, 64]])
    found = {
        asked: qdet.load(tmp_path / "r", precision=asked).runner(images, sizes, sizes).scores
        for asked in ("auto", "bf16", "fp32")
    }
    assert not torch.equal(found["bf16"], found["fp32"])
    assert torch.equal(found["auto"], found["fp32" if emulates else trained])
