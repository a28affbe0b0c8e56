"""Files that were exported: read back, run by other runtimes, and what is wrong with those of others."""

import json
import stat
from dataclasses import replace

import numpy as np
import onnx as onnx_format
import pytest
import torch

import qdet
from qdet.errors import CheckpointError, ConfigError, ExportError
from qdet.exporting import parity
from qdet.exporting.export import export
from qdet.exporting.graphs import Graph
from qdet.exporting.parity import BATCHES, SIZES, TOLERANCE, check
from tests.support.loaded_models import AUGMENT, photo, small_model
from tests.support.openvino_session import open_in_openvino


@pytest.fixture(params=["onnx", "program"])
def exported(request):
    return request.getfixturevalue(request.param)


def assert_same_detections(found, wanted, *, side=300.0):
    np.testing.assert_allclose(found.scores, wanted.scores, atol=TOLERANCE)
    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=TOLERANCE * side)
    np.testing.assert_array_equal(found.labels, wanted.labels)


def test_it_was_compared_with_pytorch(exported):
    assert exported.difference.images == sum(BATCHES) * len(SIZES)
    assert exported.difference.within


def test_it_detects_the_same_in_pictures_of_any_size(exported, model):
    loaded = qdet.load(exported.path)
    pictures = [photo(), photo(120, 333), photo(70, 64), photo(40, 200)]
    pairs = zip(*(one.predict(pictures, score=0.0) for one in (loaded, model)), strict=True)
    for found, wanted in pairs:
        assert_same_detections(found, wanted)


def test_it_knows_classes_settings_and_origin(exported, model):
    loaded = qdet.load(exported.path)
    assert loaded.classes == model.classes
    assert loaded.description.detector == model.description.detector
    assert loaded.description.augment == AUGMENT
    assert (loaded.description.step, loaded.description.metrics) == (7, {"val/AP": 0.25})


def test_it_holds_a_graph_and_no_module(exported):
    with pytest.raises(ConfigError, match="holds a graph"):
        qdet.load(exported.path).detector  # noqa: B018


def test_others_can_read_it_and_nothing_is_left_beside_it(exported):
    assert stat.S_IMODE(exported.path.stat().st_mode) & 0o444 == 0o444
    assert [p.name for p in exported.path.parent.iterdir()] == [exported.path.name]


def test_onnx_names_its_inputs_and_keeps_their_sizes_open(onnx):
    read = onnx_format.load(onnx.path)
    onnx_format.checker.check_model(read)
    shapes = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in read.graph.input
    }
    batch, channels, height, width = shapes["images"]
    assert channels == 3
    assert len({batch, height, width}) == 3
    assert all(isinstance(side, str) for side in (batch, height, width))
    assert shapes["sizes_hw"] == shapes["original_hw"] == [batch, 2]
    assert [o.name for o in read.graph.output] == ["boxes_xyxy", "scores", "labels"]
    assert {o.domain for o in read.opset_import} == {""}  # operations of the standard alone


def test_openvino_computes_the_same(onnx, model):
    graph = Graph.of(model.detector, AUGMENT, "batch")
    assert check(graph.module, open_in_openvino(onnx.path), "batch", "OpenVINO").within


def test_weights_alone_come_back_as_the_module(model, tmp_path):
    file = tmp_path / "deep" / "model.safetensors"
    qdet.export(model, file)
    loaded = qdet.load(file)
    assert loaded.classes == model.classes
    assert all(t.equal(model.detector.state_dict()[name]) for name, t in loaded.detector.state_dict().items())
    assert_same_detections(loaded.predict(photo(), score=0.0), model.predict(photo(), score=0.0))
    assert {p.name for p in file.parent.iterdir()} == {"model.safetensors", "model.json"}
    modes = {stat.S_IMODE(p.stat().st_mode) for p in file.parent.iterdir()}
    assert len(modes) == 1
    assert next(iter(modes)) & 0o444 == 0o444


def test_a_file_that_differs_does_not_get_its_name(model, tmp_path, monkeypatch):
    def write_another(graph, description, file, name):
        file.write_text("another")

        def session(*inputs):
            boxes, scores, labels = graph.module(*inputs)
            return boxes, scores + 0.001, labels

        return parity.check(graph.module, session, "batch", name)

    monkeypatch.setattr("qdet.exporting.export.write_program", write_another)
    file = tmp_path / "model.pt2"
    file.write_text("the previous one")
    with pytest.raises(ExportError, match=r"model.pt2 differs from PyTorch at batch 1"):
        export(model, file)
    assert file.read_text() == "the previous one"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.onnx", b"hello", "cannot be read as ONNX"),
        ("a.onnx", None, "is not there"),
        ("a.pt2", b"hello", "cannot be read as a program"),
        ("a.pt2", None, "is not there"),
    ],
)
def test_what_is_no_such_file_is_named(name, content, message, tmp_path):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        qdet.load(file)
    assert str(file) in str(caught.value)


def test_onnx_of_another_program_is_named(onnx, tmp_path):
    read = onnx_format.load(onnx.path)
    kept = [entry for entry in read.metadata_props if entry.key != "qdet"]
    del read.metadata_props[:]
    read.metadata_props.extend(kept)
    file = tmp_path / "other.onnx"
    onnx_format.save(read, file)
    with pytest.raises(CheckpointError, match=r"other.onnx was not exported by qdet"):
        qdet.load(file)


def test_a_program_of_another_program_is_named(tmp_path):
    file = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.ones(2),)), file)
    with pytest.raises(CheckpointError, match=r"other.pt2 was not exported by qdet"):
        qdet.load(file)


def test_a_program_is_loaded_from_this_machine_alone():
    with pytest.raises(CheckpointError, match=r"https://example.com/m.pt2: loading a .pt2 can run code"):
        qdet.load("https://example.com/m.pt2")


def test_a_damaged_description_is_named(onnx, tmp_path):
    read = onnx_format.load(onnx.path)
    entry = next(entry for entry in read.metadata_props if entry.key == "qdet")
    entry.value = json.dumps(json.loads(entry.value) | {"graph": "film"})
    file = tmp_path / "new.onnx"
    onnx_format.save(read, file)
    with pytest.raises(CheckpointError, match=r"new.onnx holds a graph of the unknown form 'film'"):
        qdet.load(file)


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("m.engine", "batch", r"the format .engine does not exist; give a .onnx, .pt2"),
        ("m.pth", "batch", "the format .pth does not exist"),
        ("m.safetensors", "raw", "--form raw is for .onnx and .pt2"),
        ("folder", "image", "--form image is for .onnx and .pt2"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(name, form, message, model, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export(model, tmp_path / name, form=form)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_not_touched(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is already there"):
        export(model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["mmdet", "detectron2"])
def test_a_graph_resizes_by_the_pipeline_of_its_model(pipeline, tmp_path):
    """At 128 of 427 x 640 pixels the pipelines give 191, 192 and 192; a wrong size moves boxes."""
    model = small_model(augment=replace(AUGMENT, pipeline=pipeline))
    loaded = qdet.load(export(model, tmp_path / "image.onnx", form="image").path)
    assert loaded.description.augment.pipeline == pipeline
    for height, width in ((427, 640), (640, 425), (333, 500)):
        wanted = model.predict(photo(height, width), score=0.0)
        seen = loaded.predict(photo(height, width), score=0.0)
        np.testing.assert_allclose(seen.scores, wanted.scores, atol=5e-3)
        np.testing.assert_allclose(seen.boxes_xyxy, wanted.boxes_xyxy, atol=2.5)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_a_graph_that_resizes_finds_what_evaluation_finds(ending, model, tmp_path):
    """Resized colours are not rounded, and what qdet has resized is resized again: off by a pixel at most."""
    found = export(model, tmp_path / f"image{ending}", form="image")
    assert found.difference.within
    loaded = qdet.load(found.path)
    for height, width in ((128, 200), (200, 128), (300, 300)):
        wanted = model.predict(photo(height, width), score=0.0)
        seen = loaded.predict(photo(height, width), score=0.0)
        np.testing.assert_allclose(seen.scores, wanted.scores, atol=5e-3)
        np.testing.assert_allclose(seen.boxes_xyxy, wanted.boxes_xyxy, atol=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_a_raw_graph_is_scored_by_qdet(ending, model, tmp_path):
    found = export(model, tmp_path / f"raw{ending}", form="raw")
    assert found.difference.within
    loaded = qdet.load(found.path)
    pictures = [photo(), photo(120, 333), photo(70, 64)]
    pairs = zip(*(one.predict(pictures, score=0.0) for one in (loaded, model)), strict=True)
    for seen, wanted in pairs:
        assert_same_detections(seen, wanted)


def test_exporting_takes_what_load_takes(model, tmp_path):
    first = export(model, tmp_path / "a.safetensors").path
    second = qdet.export(first, tmp_path / "b.safetensors").path
    assert first.read_bytes() == second.read_bytes()
