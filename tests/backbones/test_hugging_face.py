"""Backbones of transformers: built without a network, frozen as ours are, loaded from folders."""

import dataclasses
import json
import socket
import sys
from pathlib import Path

import pytest
import torch

from qdet.backbones import HuggingFaceConfig, load_pretrained
from qdet.detectors import DETRConfig
from qdet.errors import CheckpointError, ConfigError

transformers = pytest.importorskip("transformers")

RESNET = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1]}
SWIN = {"embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4}
DINO = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Let whatever opens a connection fail at once."""

    def refuse(*_):
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it would try again for minutes


def tiny(model: str, settings: dict, **more) -> HuggingFaceConfig:
    return HuggingFaceConfig(**{"model": model, "settings": json.dumps(settings), "weights": None} | more)


def saved(folder: Path, model: str, settings: dict):
    """Save a classifier with random weights, as the hub has them."""
    config = transformers.AutoConfig.for_model(model, **settings)
    classifier = transformers.AutoModelForImageClassification.from_config(config)
    with torch.no_grad():
        for name, t in classifier.state_dict().items():
            if t.is_floating_point():
                t.uniform_(0.5, 1.5) if "running_var" in name else t.normal_(std=0.2)
    classifier.save_pretrained(folder)
    return classifier


@pytest.mark.parametrize(("model", "settings"), [("resnet", RESNET), ("swin", SWIN), ("convnext", {})])
def test_the_maps_are_those_of_autobackbone(model, settings):
    ours = tiny(model, settings).build().eval()
    assert ours.strides == (4, 8, 16, 32)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        theirs = ours.body(images).feature_maps
        for a, b in zip(ours(images), theirs, strict=True):
            assert torch.equal(a, b)


def test_custom_settings_and_any_stages_build():
    own = transformers.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1])
    module = HuggingFaceConfig(
        model="convnext", settings=own.to_json_string(), levels=2, weights=None
    ).build()
    assert (module.channels, module.strides) == ((16, 20), (16, 32))
    assert len(module(torch.randn(1, 3, 50, 70))) == 2


@pytest.mark.parametrize(("model", "settings"), [("resnet", RESNET), ("swin", SWIN)])
def test_a_saved_classifier_gives_architecture_and_weights(tmp_path, model, settings):
    classifier = saved(tmp_path, model, settings)
    config = HuggingFaceConfig(model=str(tmp_path))
    module = config.build()
    load_pretrained(module, config)
    theirs = {key.removeprefix(f"{model}."): t for key, t in classifier.state_dict().items()}
    ours = {key.removeprefix(f"{model}."): t for key, t in module.body.state_dict().items()}
    compared = [key for key in ours if not key.startswith("hidden_states_norms")]
    assert len(compared) > 30
    assert all(torch.equal(ours[key], theirs[key]) for key in compared)
    elsewhere = tiny(model, settings, weights=str(tmp_path)).build()
    load_pretrained(elsewhere, elsewhere.config)
    again = {key.removeprefix(f"{model}."): t for key, t in elsewhere.body.state_dict().items()}
    assert all(torch.equal(again[key], ours[key]) for key in compared)


def test_frozen_norms_compute_what_batch_norm_does_in_evaluation(tmp_path):
    saved(tmp_path, "resnet", RESNET)
    images = torch.randn(2, 3, 64, 64)
    theirs = transformers.ResNetBackbone.from_pretrained(tmp_path, out_indices=[1, 2, 3, 4]).eval()
    for norm, trained in (("frozen", False), ("eval", True)):
        config = HuggingFaceConfig(model=str(tmp_path), norm=norm)
        module = config.build().train()
        load_pretrained(module, config)
        for a, b in zip(module(images), theirs(images).feature_maps, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        assert any("normalization" in name for name in names) == trained


def test_named_parameters_are_frozen():
    module = tiny("resnet", RESNET, frozen=("embedder", r"stages\.0")).build()
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert trained
    assert not any("embedder" in name or "stages.0" in name for name in trained)


def test_plain_transformers_serve_detectors_of_one_map():
    config = tiny("dinov2", DINO, levels=1)
    detector = DETRConfig(backbone=config, width=32, heads=2, queries=5).build(3)
    assert detector.backbone.strides == (14,)
    stages = detector(torch.randint(0, 255, (1, 3, 60, 80), dtype=torch.uint8), torch.tensor([[60, 80]]))
    assert stages[-1].boxes_xyxy.shape == (1, 5, 4)
    with pytest.raises(ConfigError, match=r"levels 2: .* have strides \(14, 14\), which do not grow"):
        dataclasses.replace(config, levels=2).build()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "hf:nobody/nothing"}, r"hf download nobody/nothing config\.json"),
        ({"model": "perceptron"}, "neither hf:NAME, a folder nor a type"),
        ({"model": "bert"}, "no AutoBackbone of bert"),
        ({"model": "resnet", "levels": 9}, r"--detector\.backbone\.levels 9: there are stage1"),
        ({"levels": 0}, r"levels must be at least 1"),
        ({"settings": "depths=3"}, r"--detector\.backbone\.settings is not valid JSON"),
        ({"settings": "[1]"}, "must be a JSON object"),
    ],
)
def test_impossible_settings_are_refused_by_their_flag(settings, message):
    with pytest.raises(ConfigError, match=message):
        HuggingFaceConfig(**settings).build()


def test_missing_weights_and_those_of_another_model_are_refused(tmp_path):
    typed = tiny("resnet", RESNET, weights="model")
    with pytest.raises(ConfigError, match="resnet has no weights; give hf:NAME, a folder, or none"):
        load_pretrained(typed.build(), typed)
    far = tiny("resnet", RESNET, weights="hf:nobody/nothing")
    with pytest.raises(CheckpointError, match="hf download nobody/nothing"):
        load_pretrained(far.build(), far)
    saved(tmp_path, "swin", SWIN)
    other = tiny("resnet", RESNET, weights=str(tmp_path))
    module = other.build()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    with pytest.raises(CheckpointError, match="it is of another model"):
        load_pretrained(module, other)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'qdet\[hf\]'"):
        tiny("resnet", RESNET).build()
