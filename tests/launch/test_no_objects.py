"""Datasets without objects: said before workers start, by evaluations and at the end; no sweep of them."""

import json
from pathlib import Path

import pytest

from data_prep.coco_to_shards import Conversion, convert
from qdet.config import override
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.job import Job, Sweep
from qdet.launching import paths
from qdet.launching.preflight.check import check
from qdet.launching.preflight.objects import require_ground_truth
from qdet.launching.ray_backend.sweeping.search import search
from qdet.launching.runs import report
from qdet.launching.runs.prepared import prepare
from qdet.search import Choice
from qdet.training.reporting import Evaluation
from qdet.training.streams import warn_of_missing_objects


@pytest.fixture
def sets(make_coco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Shards with objects, without any, and with crowds alone."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    found = {}
    for name in ("some", "none", "crowds"):
        root, content = make_coco(12, name=f"coco_{name}")
        if name == "none":
            content["annotations"] = []
        for entry in content["annotations"]:
            entry["iscrowd"] = int(name == "crowds" or entry["iscrowd"])
        (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
        convert(Conversion(coco=root, split="train", out=tmp_path / name, processes=1))
        found[name] = str(tmp_path / name)
    return found


def _job(train: str, val: str) -> Job:
    return override(
        Job(name="a"), {"data.train": train, "data.val": val, "train.workers": 1, "train.batch_size": 4}
    )


@pytest.mark.parametrize("empty", ["none", "crowds"])
def test_the_check_before_a_run_warns(empty: str, sets: dict, capsys: pytest.CaptureFixture):
    check(prepare(_job(sets["some"], sets["some"])))
    assert "WARNING" not in capsys.readouterr().out
    check(prepare(_job(sets[empty], sets[empty])))
    said = capsys.readouterr().out
    assert f"WARNING: no image of --data.train {sets[empty]} has an object" in said
    assert f"WARNING: no image of --data.val {sets[empty]} has an object" in said
    assert "there will be no AP" in said


def test_a_sweep_refuses_a_validation_set_without_objects(sets: dict):
    require_ground_truth(prepare(_job(sets["none"], sets["some"])))
    job = _job(sets["some"], sets["none"])
    with pytest.raises(ConfigError, match=r"--data\.val .*none has no objects, so there is no AP to compare"):
        search(job, Sweep(space={"optim.lr": Choice((1e-3, 1e-4))}, trials=2))


def test_workers_name_the_sets_that_only_they_could_scan(sets: dict, capsys: pytest.CaptureFixture):
    shards = ShardSet.open(sets["none"])
    warn_of_missing_objects(shards, shards)
    assert capsys.readouterr().out == ""  # the driver knew
    remote = ShardSet(
        **vars(shards) | {"source": "s3://a/b", "manifest": {**shards.manifest, "image_ids": "json"}}
    )
    warn_of_missing_objects(remote, remote)
    assert capsys.readouterr().out.count("WARNING: no image of --data.") == 2


def test_evaluations_and_the_end_say_that_there_is_no_ground_truth():
    assert Evaluation(step=5, metrics={}).line() == "evaluated after step 5: no AP: no ground truth"
    assert report.ap_table({}) == "no AP: no ground truth"
    assert "no AP" not in Evaluation(step=5, metrics={"val/AP": 0.5}).line()
