"""The backbone's pre-training: cell targets, close-ups, and the shipped weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import qdet.backbones
from data_prep.pretrain_backbone import PretrainConfig, Student, main
from data_prep.rendering.cells import BACKGROUND, GEOMETRY_SCALE, compute_cells, dense_loss, name_loss
from data_prep.rendering.close_ups import cut_close_ups
from data_prep.rendering.shapes import render
from qdet.backbones import SwinConfig, load_pretrained
from qdet.errors import ConfigError

SHIPPED = Path(qdet.backbones.__file__).parent / "swin_demo.safetensors"


@pytest.fixture(scope="module")
def scenes():
    return [render(0, "tune", i, 64) for i in range(6)]


@pytest.mark.parametrize("stride", [4, 16])
def test_cells_equal_a_slow_computation(scenes, stride):
    shown = compute_cells(scenes, stride)
    for b, scene in enumerate(scenes):
        for row, column in np.ndindex(64 // stride, 64 // stride):
            top, left = row * stride, column * stride
            inside = scene.owners[top : top + stride, left : left + stride].ravel()
            classes = [BACKGROUND if o < 0 else scene.labels[o] for o in inside]
            share = np.bincount(classes, minlength=BACKGROUND + 1) / stride**2
            np.testing.assert_allclose(shown.shares[b, :, row, column], share, atol=1e-6)
            middle = scene.owners[top + stride // 2, left + stride // 2]
            assert shown.covered[b, row, column] == (middle >= 0)
            if middle >= 0:
                x, y, log_w, log_h = shown.geometry[b, :, row, column].tolist()
                x, y = x * GEOMETRY_SCALE + left + stride / 2, y * GEOMETRY_SCALE + top + stride / 2
                w, h = 2**log_w * GEOMETRY_SCALE, 2**log_h * GEOMETRY_SCALE
                found = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                np.testing.assert_allclose(found, scene.boxes_xyxy[middle], atol=1e-3)


def test_the_right_answer_has_the_least_loss(scenes):
    shown = compute_cells(scenes, 4)
    right = torch.cat([shown.shares.clamp(min=1e-6).log(), shown.geometry], 1)
    exact = dense_loss(right, shown)
    assert exact < dense_loss(torch.cat([right[:, :7].flip(1), right[:, 7:]], 1), shown)
    assert exact < dense_loss(torch.cat([right[:, :7], right[:, 7:] + 1], 1), shown)
    names = np.array([[[0, 1], [2, 3]]])
    levels = [torch.nn.functional.one_hot(torch.from_numpy(names), 6).permute(0, 3, 1, 2) * 9.0] * 4
    assert name_loss(levels, names) < 0.01 < name_loss(levels, names[:, ::-1].copy())


def test_close_ups_show_the_object_they_name(scenes):
    """Paint each object's box in a grey that encodes its class: the middle of a tile then gives its class."""
    painted = []
    for scene in scenes:
        image = np.zeros((64, 64, 3), np.uint8)
        for label, box in zip(scene.labels, scene.boxes_xyxy.astype(int), strict=True):
            image[box[1] : box[3], box[0] : box[2]] = 15 * (label + 1)
        painted.append(
            dataclasses.replace(
                scene, image=image, labels=scene.labels[-1:], boxes_xyxy=scene.boxes_xyxy[-1:]
            )
        )
    images, names = cut_close_ups(np.random.default_rng(0), painted, 4, tile=32, size=128)
    assert names.shape == (4, 4, 4)
    for image, row, column in np.ndindex(names.shape):
        middle = images[image][row * 32 + 16, column * 32 + 16].astype(int)
        grey = np.minimum(middle, 255 - middle)  # colours may be inverted
        assert np.abs(grey - 15 * (names[image, row, column] + 1)).max() <= 2


def test_a_short_run_writes_weights_that_the_detector_loads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_prep.pretrain_backbone.POOL", 8)
    monkeypatch.setattr("data_prep.pretrain_backbone.MEASURED", 16)
    out = tmp_path / "weights.safetensors"
    main(PretrainConfig(out=out, close_up_steps=1, steps=3, batch_size=4, size=64, warmup=1))
    assert "step 3/3" in capsys.readouterr().out
    backbone = SwinConfig(size="demo", weights=str(out), drop_path=0.0)
    module = backbone.build()
    before = [p.clone() for p in module.parameters()]
    load_pretrained(module, backbone)
    assert all(p.dtype is torch.float32 for p in module.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    with safe_open(out, "pt") as file:
        assert file.metadata()["step"] == "3"


def test_every_head_learns():
    student = Student()
    naming, dense = student(torch.randn(2, 3, 64, 64))
    assert [n.shape for n in naming] == [(2, 6, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    assert dense.shape == (2, 6 + 1 + 4, 16, 16)
    torch.stack([x.square().mean() for x in [*naming, dense]]).sum().backward()
    assert all(p.grad is not None for p in student.parameters())


def test_shipped_weights_load_and_recognize_shapes():
    assert SHIPPED.stat().st_size <= 5_000_000
    config = SwinConfig(size="demo", weights="package:swin_demo.safetensors", drop_path=0.0)
    student = Student()
    load_pretrained(student.backbone, config)
    with safe_open(SHIPPED, "pt") as file:
        facts = file.metadata()
    assert float(facts["close_up_accuracy"]) > 0.6
    assert (SHIPPED.parent / "swin_demo.md").exists()


def test_invalid_settings_are_refused_by_flag():
    with pytest.raises(ConfigError, match="--size must be a multiple of 32, got 100"):
        PretrainConfig(size=100)
