"""Models trained with further learned queries: commands compute what they do without these, to the bit."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
import torch

from qdet.__main__ import main
from qdet.backbones import ResNetConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.detectors import DetectorConfig
from qdet.layers.one_to_many.config import NO_BRANCHES
from qdet.types import Branches
from tests.support.denoising_jobs import BRANCHED, DETECTORS
from tests.support.detector_variants import SIZES, images, shaken
from tests.support.tiny_job import job
from tests.support.untrained_model import write_weights

BACKBONE = ResNetConfig(depth=14, width=8, weights=None)
MODELS: dict[str, DetectorConfig] = {
    name: replace(config, backbone=BACKBONE, decoder_layers=1)
    for name, config in (
        *BRANCHED.items(),
        ("dino", replace(DETECTORS["dino"], one_to_many=BRANCHED["h_detr"].one_to_many)),
    )
}
"""H-DETR, Group DETR, and DINO trained with noised queries and with learned ones."""


@dataclass(frozen=True)
class Pair:
    """Two checkpoints of the same weights."""

    branched: Path
    """Of a job whose training has further queries, whose vectors it holds."""
    plain: Path
    """Of one without, and without these vectors."""

    def __iter__(self):
        return iter((self.branched, self.plain))


@pytest.fixture(scope="module")
def val(demo_shards) -> ShardSet:
    return ShardSet.open(demo_shards / "val")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name == "h_detr" else pytest.mark.slow) for name in MODELS],
)
def pair(request, val, tmp_path_factory) -> Pair:
    """The checkpoints of a model."""
    folder, names = tmp_path_factory.mktemp(request.param), val.categories.names
    branched = replace(job, detector=MODELS[request.param])
    plain = replace(job, detector=replace(branched.detector, one_to_many=NO_BRANCHES))
    torch.manual_seed(0)
    detector = shaken(branched.detector.build(len(names))).train()
    assert any(isinstance(p, Branches) for p in detector(images(), SIZES))
    weights = detector.state_dict()
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith(".extra")}
    assert len(kept) == len(weights) - 1
    return Pair(
        write_weights(folder / "branched" / "step_000007", names, branched, weights),
        write_weights(folder / "plain" / "step_000007", names, plain, kept),
    )


@pytest.fixture
def call(capfd):
    """Run a command that ends well; returns what it printed."""

    def run(*arguments: object) -> str:
        capfd.readouterr()
        code = 0
        try:
            main([*map(str, arguments)])
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    return run


def predict(call, model: Path, pictures: list[Path], to: Path) -> list[dict]:
    """Return what `qdet predict` finds, every detection."""
    call("predict", model, *pictures, "--json", to)
    found = json.loads(to.read_text())
    assert len(found) == 10 * len(pictures)
    return found


def test_predictions_are_the_same(pair, call, files, tmp_path):
    branched, plain = (predict(call, model, files, tmp_path / f"{model.parent.name}.json") for model in pair)
    assert branched == plain


def test_evaluations_are_the_same(pair, call, val, demo_shards):
    branched, plain = (
        json.loads(call("evaluate", one, "--data", demo_shards / "val", "--json")) for one in pair
    )
    for found in (branched, plain):
        del found["seconds"]
    assert branched == plain


def export(call, pair: Pair, into: Path, ending: str) -> list[Path]:
    """Write both models with `qdet export`; return the files."""
    found = [into / f"{model.parent.name}{ending}" for model in pair]
    for model, file in zip(pair, found, strict=True):
        call("export", model, "--to", file)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_onnx_files_hold_the_same_graph(pair, call, files, tmp_path):
    """The same operations and weights: the vectors of further queries are left out."""
    found = export(call, pair, tmp_path, ".onnx")
    branched, plain = (onnx.load(file).graph for file in found)
    assert branched == plain
    branched, plain = (predict(call, file, files, tmp_path / f"{file.stem}.json") for file in found)
    assert branched == plain


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_programs_hold_the_same_graph(pair, call, files, tmp_path):
    found = export(call, pair, tmp_path, ".pt2")
    branched, plain = (torch.export.load(file) for file in found)
    assert branched.graph_module.code == plain.graph_module.code
    assert branched.state_dict.keys() == plain.state_dict.keys()
    assert all(tensor.equal(plain.state_dict[name]) for name, tensor in branched.state_dict.items())
    branched, plain = (predict(call, file, files, tmp_path / f"{file.stem}.json") for file in found)
    assert branched == plain
