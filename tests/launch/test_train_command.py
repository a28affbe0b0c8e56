"""`qdet train`: from a folder of shards, or any dataset, to a scored model."""

import json
import re
import shutil
from pathlib import Path

import pytest

from qdet.__main__ import main
from qdet.errors import ConfigError
from qdet.launching.commands.training.course import choose_base, plan
from qdet.launching.commands.training.datasets import Request, find_shards, gather_facts
from tests.support.dataset_folder import write_voc

QUICK = (
    "--train.epochs",
    "1",
    "--train.batch-size",
    "24",
    "--eval.pictures",
    "0",
    "--track.no-system-metrics",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QDET_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.fixture
def shapes(demo_shards: Path, project: Path) -> Path:
    """Shards of shapes with a part to train on, one to validate with and one to test on."""
    for name, source in (("train", "train"), ("val", "val"), ("test", "val")):
        shutil.copytree(demo_shards / source, project / "shapes" / name)
    return project / "shapes"


def test_shards_are_trained_on_as_they_are_and_the_test_part_is_scored_once(shapes, capfd):
    main(["train", "--data", "shapes", "--local", "--", *QUICK])
    said = capfd.readouterr().out
    assert "settings for 48 images of 64 x 64 pixels, 6 classes" in said
    assert "class head: kept" not in said  # all six are the demo's
    assert re.search(r"starting from .*demo\.safetensors", said)
    scored = re.search(r"^test: AP=(\d\.\d+) AP50=", said, re.MULTILINE)
    assert scored
    assert float(scored[1]) > 0.1  # 64 pixels instead of the demo's 128, two steps
    run = re.search(r"qdet predict (outputs/shapes-\S+) photo.jpg", said)
    assert run
    assert (shapes.parent / run[1] / "run.json").is_file()
    main(["train", "--data", "shapes", "--local", "--", *QUICK, "--store.resume", Path(run[1]).name])
    assert "resuming from step 2 of 2" in capfd.readouterr().out


def test_a_dry_run_shows_the_settings_and_trains_nothing(shapes, capfd):
    main(["train", "--data", "shapes", "--", "--dry-run", "--optim.lr", "0.5"])
    said = capfd.readouterr().out
    assert re.search(r"--optim.lr +0.5( |$)", said, re.MULTILINE)
    assert "test: AP" not in said
    assert not list(shapes.parent.glob("outputs/*/run.json"))


def test_facts_are_counted_in_the_annotations(shapes):
    facts = gather_facts(str(shapes / "train"))
    content = json.loads((shapes / "train" / "manifest.json").read_text())
    assert (facts.images, facts.classes) == (48, len(content["categories"]))
    assert facts.size_hw == (64, 64)
    assert 8 < facts.side < 40
    assert 3 <= facts.crowd <= 12


def test_another_job_keeps_its_own_start_and_its_flags_choose_its_size(shapes):
    facts, shards = gather_facts(str(shapes / "train")), find_shards(Request(data="shapes"))
    base, rest = choose_base("qdet:detr_r50", "demo", ["--demo", "--variant", "r101_dc5", "--optim.lr", "1"])
    assert rest == ["--optim.lr", "1"]
    assert base.name == "detr_r101_dc5_demo"
    job, _ = plan(base, None, facts, shards, name="mine")
    assert (job.name, job.store.init_from, job.detector) == ("mine", None, base.detector)
    assert (job.data.train, job.data.val) == ("shapes/train", "shapes/val")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"data": "shapes", "val_share": 0.2}, "in shards already; give those to validate with: --val DIR"),
        ({"data": "shapes/train"}, "holds shards of train; give those to validate with by --val DIR"),
    ],
)
def test_shards_without_a_part_to_validate_with_are_refused(shapes, flags, said):
    with pytest.raises(ConfigError, match=said):
        find_shards(Request(**flags))


def test_a_part_to_validate_with_may_be_elsewhere(shapes):
    found = find_shards(Request(data="shapes/train", val="shapes/val"))
    assert found == {"train": "shapes/train", "val": "shapes/val"}


def test_a_dataset_is_converted_once_and_split(project):
    pytest.importorskip("data_prep.datasets", reason="readers of other formats")
    write_voc(project / "cells", images=20)
    found = find_shards(Request(data="cells"))
    assert found.keys() == {"train", "val"}
    assert found["train"] == str(project / "data/cells/train")
    written = Path(found["train"], "manifest.json").stat().st_mtime_ns
    assert find_shards(Request(data="cells")) == found
    assert Path(found["train"], "manifest.json").stat().st_mtime_ns == written
    facts = gather_facts(found["train"])
    assert 0 < facts.images < 20
    assert (facts.classes, facts.crowd, facts.side) == (1, 1, pytest.approx(20.0))
