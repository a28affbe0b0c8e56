"""`qdet.evaluate`: the numbers of training's evaluation, classes by name, workers, files, MLflow."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import qdet
from qdet.__main__ import main
from qdet.config import override
from qdet.data.shards.categories import Categories
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.evaluation import DetectionRows, merge
from qdet.inference.judging.classes import share_classes
from qdet.inference.judging.detecting import Detecting, _detect_part, detect
from qdet.inference.judging.tta import fuse
from qdet.training.distributed import World
from qdet.training.evaluate import evaluate_shards
from tests.support.tiny_job import job
from tests.support.untrained_model import write_untrained, write_weights


@pytest.fixture(scope="module")
def shards(demo_shards: Path) -> ShardSet:
    return ShardSet.open(demo_shards / "val")


@pytest.fixture(scope="module")
def checkpoint(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("run") / "step_000007", shards.categories.names)


def same(a: DetectionRows, b: DetectionRows) -> bool:
    a, b = a.in_order(), b.in_order()
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))


def test_numbers_and_detections_are_those_of_training(checkpoint, shards):
    model = qdet.load(checkpoint)
    forward = model.runner.forward
    metrics, rows = evaluate_shards(model.detector, forward, shards, job, World(0, 1, torch.device("cpu")))
    report = qdet.evaluate(model, shards)
    assert same(report.rows, rows)
    assert repr(report.coco) == repr(metrics)  # every digit, and NaN for sizes without objects
    assert len(rows) > 0
    assert report.findings.images == len(shards)
    assert set(report.findings.seconds) == {"waiting for images", "backbone", "decoder", "boxes"}
    assert min(report.findings.seconds.values()) >= 0
    assert report.step == 7


def test_parts_of_several_workers_are_the_whole(checkpoint, shards):
    model = qdet.load(checkpoint)
    how = Detecting(category_ids=shards.categories.ids, batch_size=4, tta=True)
    whole = detect(model, shards, how)
    three = dataclasses.replace(how, workers=3)
    parts = [_detect_part(model, shards, three, rank)[0] for rank in range(3)]
    assert len(parts[0]) == 6  # mirrored or not, in three sizes
    assert same(fuse([merge(views) for views in zip(*parts, strict=True)]), whole.rows)


def test_another_size_is_that_of_a_job_which_evaluates_at_it(checkpoint, shards, tmp_path):
    larger = override(job, {"data.augment.eval_size": 96, "data.augment.max_size": 96})
    weights = qdet.load(checkpoint).detector.state_dict()
    names = shards.categories.names
    trained_so = write_weights(tmp_path / "step_000007", names, larger, weights)
    report = qdet.evaluate(checkpoint, shards, size=96)
    assert same(report.rows, qdet.evaluate(trained_so, shards).rows)
    assert not same(report.rows, qdet.evaluate(checkpoint, shards).rows)


ON_RAY = """
import sys
import ray
import qdet
from qdet.errors import DataError

checkpoint, whole, damaged = sys.argv[1:]
alone = qdet.evaluate(checkpoint, whole)
together = qdet.evaluate(checkpoint, whole, workers=2)
assert together.coco == alone.coco
a, b = together.rows.in_order(), alone.rows.in_order()
assert (a.scores == b.scores).all() and (a.boxes_xywh == b.boxes_xywh).all()
assert set(together.findings.seconds) == set(alone.findings.seconds)
try:
    qdet.evaluate(checkpoint, damaged, workers=2)
except DataError as error:
    assert type(error) is DataError and "checksum" in str(error), error
else:
    raise AssertionError("the damage was not found")
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_on_ray_find_the_same(checkpoint, demo_shards, tmp_path):
    """In a process of its own, as functions that are type-checked here cannot be sent to others."""
    arguments = [checkpoint, demo_shards / "val", _damaged_copy(demo_shards / "val", tmp_path)]
    code = [sys.executable, "-c", ON_RAY, *map(str, arguments)]
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment = kept | {"HOME": str(home)}
    done = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert not (home / ".ray").exists(), "a token that others can read"


def _damaged_copy(source: Path, folder: Path) -> Path:
    copy = folder / "damaged"
    shutil.copytree(source, copy)
    (tar,) = copy.glob("*.tar")
    data = bytearray(tar.read_bytes())
    data[int(ShardSet.open(source).index.image_offset[0]) + 200] ^= 255
    tar.write_bytes(data)
    return copy


def test_a_model_is_compared_with_a_second_one_on_the_same_images(checkpoint, shards, tmp_path):
    other = write_untrained(tmp_path / "step_000007", shards.categories.names, seed=1)
    report = qdet.evaluate(checkpoint, shards, compare=other)
    comparison = report.findings.comparison
    assert comparison is not None
    assert comparison.metrics["AR100"].first == report.coco.AR100
    assert comparison.metrics["AR100"].second == qdet.evaluate(other, shards).coco.AR100
    assert comparison.second == str(other)  # job and step are the same


def test_classes_in_another_order_are_matched_by_name(checkpoint, shards, tmp_path):
    """The same weights with their rows of classes exchanged give the same report."""
    model = qdet.load(checkpoint)
    order = list(reversed(range(len(shards.categories))))
    names = [shards.categories.names[i] for i in order]
    turned = dataclasses.replace(
        model,
        description=dataclasses.replace(model.description, classes=Categories(tuple(names), tuple(range(6)))),
        runner=_Relabelled(model.runner, torch.tensor(order)),
    )
    assert same(qdet.evaluate(turned, shards).rows, qdet.evaluate(model, shards).rows)


@dataclasses.dataclass
class _Relabelled:
    inner: object
    order: torch.Tensor

    @property
    def device(self):
        return torch.device("cpu")

    def __call__(self, *batch):
        found = self.inner(*batch)
        return dataclasses.replace(found, labels=torch.argsort(self.order)[found.labels])


def categories(*names: str) -> Categories:
    return Categories(tuple(names), tuple(range(1, len(names) + 1)))


def share(model: Categories, data: Categories, *, subset: bool = False):
    return share_classes(model, data, model_name="the run", data_name="the data", subset=subset)


def test_classes_that_differ_are_named_on_both_sides():
    with pytest.raises(ConfigError) as error:
        share(categories("cat", "dog", "cow"), categories("dog", "horse"))
    said = str(error.value)
    assert "only the model has 'cat', 'cow'" in said
    assert "only the data has 'horse'" in said
    assert "--subset to evaluate the 1 that both have" in said
    with pytest.raises(ConfigError, match="they share none"):
        share(categories("cat"), categories("dog"), subset=True)
    many = categories(*(f"c{i}" for i in range(9)))
    with pytest.raises(ConfigError, match="'c1', 'c2', 'c3', 'c4', 'c5' and 3 more"):
        share(many, categories("c0"))


def test_names_that_look_the_same_are_the_same():
    assert share(categories("café", " tea"), categories("tea", "cafe\u0301")).category_ids == (2, 1)


def test_a_subset_leaves_out_what_one_side_does_not_know():
    shared = share(categories("cat", "dog"), categories("dog", "horse"), subset=True)
    assert shared.category_ids[1] == 1
    assert shared.evaluated == {1}
    truth = {
        "images": [{"id": 1}],
        "annotations": [{"category_id": 1}, {"category_id": 2}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "horse"}],
    }
    assert shared.select_truth(truth) == {
        "images": [{"id": 1}],
        "annotations": [{"category_id": 1}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    n = np.arange(2)
    rows = DetectionRows(n, np.array(shared.category_ids), np.ones((2, 4)), np.ones(2), n)
    kept = shared.select_rows(rows)
    assert kept.category_ids.tolist() == [1]
    assert kept.seen.tolist() == [0, 1]


def test_a_model_of_some_classes_is_evaluated_on_those(shards, tmp_path):
    two = write_untrained(tmp_path / "step_000007", (shards.categories.names[1], "zebra"))
    with pytest.raises(ConfigError, match="only the model has 'zebra'; only the data has"):
        qdet.evaluate(two, shards)
    report = qdet.evaluate(two, shards, subset=True)
    assert list(report.coco.per_class) == [shards.categories.names[1]]


def run_command(capsys, *args: object) -> str:
    main(["evaluate", *map(str, args)])
    return capsys.readouterr().out


def test_the_command_prints_json_alone_and_writes_the_page(checkpoint, demo_shards, tmp_path, capsys):
    page = tmp_path / "new" / "report.html"
    out = run_command(capsys, checkpoint, "--data", demo_shards / "val", "--json", "--html", page)
    content = json.loads(out)
    assert content["images"] == 16
    assert content["coco"]["AR100"] == qdet.evaluate(checkpoint, demo_shards / "val").coco.AR100
    text = page.read_text()
    assert "data:image/jpeg;base64," in text
    assert "<script src" not in text


def test_the_command_prints_tables(checkpoint, demo_shards, capsys):
    out = run_command(capsys, checkpoint, "--data", demo_shards / "val", "--tta")
    assert "What costs AP (TIDE)" in out
    assert "AR100" in out
    assert out.endswith("the same command with --html report.html\n")


@pytest.mark.parametrize(("flag", "value"), [("--batch", "0"), ("--workers", "0"), ("--size", "0")])
def test_settings_that_cannot_work_are_user_errors(checkpoint, demo_shards, flag, value, capsys):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(checkpoint), "--data", str(demo_shards / "val"), flag, value])
    assert end.value.code == 2
    assert f"{flag} must be at least 1" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_a_user_error(checkpoint, shards, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        qdet.evaluate(checkpoint, shards).html(tmp_path / "file" / "report.html")


def test_help_imports_no_torch():
    code = "import qdet.__main__ as m, sys\ntry: m.main(['evaluate', '--help'])\nexcept SystemExit: pass\n"
    check = "assert not {'torch', 'ray', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True, timeout=120)
