"""Every detector, with every switch that a published variant has, and every backbone, in both kinds of graph.

As `benchmarks.exported_models`, which prints the differences.
"""

import pytest

from benchmarks.exported_models import models
from qdet.exporting.export import export
from qdet.exporting.graphs import Graph
from qdet.exporting.onnx import write_onnx
from qdet.exporting.program import write_program
from tests.support.detector_variants import ONE_EACH, VARIANTS
from tests.support.loaded_models import small_model

MODELS = models()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exported_files_compute_what_pytorch_does(name, tmp_path):
    """Compared at batch 1, 3 and 8 and two sizes, before either file would get its name."""
    model = small_model(MODELS[name])
    graph = Graph.of(model.detector, model.description.augment, "batch")
    assert write_program(graph, model.description, tmp_path / "model.pt2", name).within
    assert write_onnx(graph, model.description, tmp_path / "model.onnx", name).within


@pytest.mark.slow
@pytest.mark.parametrize("form", ["image", "raw"])
@pytest.mark.parametrize("name", ONE_EACH)
def test_other_forms_of_every_detector(name, form, tmp_path):
    if (name, form) == ("sparse_rcnn_r101_100", "raw"):
        pytest.xfail("its random weights carry rounding to 2.7e-4 of the image, in a box of one query")
    model = small_model(VARIANTS[name][0])
    assert export(model, tmp_path / "model.onnx", form=form).difference.within
