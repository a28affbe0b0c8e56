"""The model that comes with qdet: it detects, and its name means it unless something else has that name."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import qdet
from data_prep.coco_to_shards import Conversion, convert
from data_prep.synthetic import SyntheticConfig, prepare
from jobs.adamixer_swin import job
from qdet.__main__ import main
from qdet.config import override
from qdet.errors import CheckpointError
from qdet.launching.preflight.start import check_start
from qdet.launching.runs.prepared import prepare as prepare_job
from tests.support import small_models

SHAPES = ("circle", "triangle", "square", "star", "ring", "cross")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of shards with scenes of a seed that neither training nor its evaluation has seen."""
    root = tmp_path_factory.mktemp("fresh")
    prepare(SyntheticConfig(out=root / "coco", train=1, val=100, seed=11, workers=1))
    convert(
        Conversion(coco=root / "coco", split="val", out=root / "val", processes=1),
        console=Console(quiet=True),
    )
    return root


def test_it_detects_in_scenes_that_it_has_not_seen(rendered):
    model = qdet.load("demo", device="cpu")
    assert model.classes.names == SHAPES
    report = json.loads(qdet.evaluate(model, str(rendered / "val")).to_json())
    assert report["coco"]["AP"] > 0.42  # 0.53 on 250 images; 100 leave more to chance
    assert report["coco"]["AP50"] > 0.7


def test_the_command_knows_its_name(rendered, capsys):
    main(["predict", "demo", str(rendered / "coco/val/000001.jpg")])
    said = capsys.readouterr()
    assert "demo: averaged weights after step 1200, val/AP 0.5275" in said.err
    assert any(shape in said.out for shape in SHAPES)


def test_a_path_or_a_run_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert qdet.load("demo", device="cpu").classes.names == SHAPES
    small_models.write_checkpoint(tmp_path / "outputs" / "demo", step=1)
    assert qdet.load("demo", device="cpu").classes.names == small_models.NAMES
    assert qdet.load("package:demo", device="cpu").classes.names == SHAPES
    (tmp_path / "outputs" / "demo").rename(tmp_path / "demo")
    assert qdet.load("demo", device="cpu").classes.names == small_models.NAMES
    with pytest.raises(CheckpointError, match="ships no model demon; it has demo"):
        qdet.load("package:demon")


def test_a_job_starts_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("QDET_ROOT", str(tmp_path))
    demo = override(job.demo(), {"store.init_from": "demo"})
    prepared = prepare_job(demo)
    assert prepared.job.store.init_from == "package:demo"
    (said,) = check_start(prepared.job, None)
    assert said.endswith("qdet/inference/demo.safetensors")
    small_models.write_checkpoint(tmp_path / "outputs" / "demo", step=1)
    assert prepare_job(demo).job.store.init_from == str(tmp_path / "outputs" / "demo")
