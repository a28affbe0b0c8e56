"""Every detector, with the switches of its published variants, and every backbone, in both kinds of graph.

As `benchmarks.exported_models`, which prints the differences.
"""

from itertools import cycle

import pytest
import torch
from torch.utils._pytree import tree_leaves

from benchmarks.exported_models import models
from qdet.config import flatten
from qdet.detectors import DetectorConfig, denoising_of
from qdet.exporting.export import export
from qdet.exporting.graphs import Graph
from qdet.exporting.onnx import write_onnx
from qdet.exporting.parity import check
from qdet.exporting.program import write_program
from qdet.inference.model import Model
from qdet.inference.runners.graphs import INPUTS
from tests.support.detector_variants import CLASSES, ONE_EACH, VARIANTS
from tests.support.loaded_models import AUGMENT, small_model
from tests.support.openvino_session import open_in_openvino


def read_in_evaluation(config: DetectorConfig) -> tuple[object, ...]:
    """Return what decides the graph behind a backbone."""
    others = {"backbone", "denoising", "one_to_many"}
    settings = (item for item in flatten(config).items() if item[0].split(".")[0] not in others)
    return type(config), denoising_of(config).kind, *settings


def chosen() -> dict[str, DetectorConfig]:
    """Return what is exported, a minute each.

    Every detector with all that it reads in evaluation, AdaMixer on Swin, and DETR behind every backbone.
    Rows of ablations are left out, whose switches AdaMixer's combinations have too.
    """
    found: dict[object, tuple[str, DetectorConfig]] = {}
    for name, config in models().items():
        if name == "adamixer_swin" or name.startswith("DETR, "):
            found[name] = name, config
        elif "_ablation_" not in name:
            found.setdefault(read_in_evaluation(config), (name, config))
    return dict(found.values())


MODELS = chosen()


MOVED = {"sparse_rcnn_r101_100": 0.003, "dynamic_detr_r50_p3_p7": 0.003}
"""Models whose weights move less than others'. Where 0.02 moves them a box wanders out of the image stage by
stage, and rounding grows with it: against float64, onnxruntime is then off by up to 3.5e-4 of the image."""
pytestmark = pytest.mark.timeout(900)


def model_of(name: str) -> Model:
    """Return a model whose boxes stay near the image."""
    return small_model(MODELS[name], **({"moved": MOVED[name]} if name in MOVED else {}))


def trace(config: DetectorConfig) -> torch.export.ExportedProgram:
    """Trace a fresh detector in its graph for batches."""
    return Graph.of(config.build(CLASSES).eval(), AUGMENT, "batch").program


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "adamixer_r101" else pytest.mark.slow) for name in ONE_EACH],
)
def test_detector_is_traced_for_any_batch_and_size(name):
    """Quicker than exporting, and what most often breaks it: a size that was read as a plain number."""
    program = trace(VARIANTS[name][0])
    images, sizes_hw, original_hw = (
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.target in INPUTS["batch"]
    )
    open_sides = {str(side) for side in images.shape if isinstance(side, torch.SymInt)}
    assert len(open_sides) == 3
    assert str(sizes_hw.shape[0]) == str(original_hw.shape[0]) == str(images.shape[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino_r50_5scale", "deformable_detr_r101_two_stage"])
def test_sizes_of_chosen_tokens_are_short_expressions(name):
    """Loading a program parses the expression of every side of every tensor."""
    sides = [
        str(side)
        for node in trace(MODELS[name]).graph.nodes
        for tensor in tree_leaves(node.meta.get("val"))
        if isinstance(tensor, torch.Tensor)
        for side in tensor.shape
    ]
    chosen = [side for side in sides if "Min" in side]
    assert chosen
    assert max(map(len, chosen)) < 40


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exported_files_compute_what_pytorch_does(name, tmp_path):
    """Compared at batch 1, 3 and 8 and two sizes: by onnxruntime and torch, as before either file gets its
    name, and by OpenVINO."""
    model = model_of(name)
    graph = Graph.of(model.detector, model.description.augment, "batch")
    assert write_program(graph, model.description, tmp_path / "model.pt2", name).within
    assert write_onnx(graph, model.description, tmp_path / "model.onnx", name).within
    assert check(graph.module, open_in_openvino(tmp_path / "model.onnx"), "batch", "OpenVINO").within


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [*zip(ONE_EACH, cycle(["image", "raw"]))])
def test_another_form_of_every_detector(name, form, tmp_path):
    """What a form adds is the same for all."""
    model = model_of(name)
    assert export(model, tmp_path / "model.onnx", form=form).difference.within


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("DETR, ")] + ["adamixer_swin"])
def test_every_backbone_takes_images_of_any_size(name, tmp_path):
    """With resizing in the graph the size of a map depends on the image, which some operations refuse."""
    model = small_model(MODELS[name])
    assert export(model, tmp_path / "model.onnx", form="image").difference.within
