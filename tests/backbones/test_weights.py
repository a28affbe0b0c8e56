"""Pretrained weights: found, checked and loaded strictly, or refused in words that help."""

import hashlib
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qdet.backbones import ResNetConfig, ResNeXtDCNConfig, SwinConfig, load_pretrained
from qdet.backbones.layouts import to_qdet
from qdet.backbones.weights import load_state
from qdet.errors import CheckpointError, ConfigError

SMALL = ResNetConfig(depth=14, width=16, weights=None)


def classifier_file(path: Path, config=SMALL) -> dict[str, torch.Tensor]:
    """Save what torchvision would: the backbone with a classifier and batch norm's counters."""
    state = {name: torch.randn_like(t) for name, t in config.build().state_dict().items()}
    counters = {f"{k[:-12]}num_batches_tracked": torch.tensor(1) for k in state if k.endswith("running_mean")}
    torch.save(state | counters | {"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}, path)
    return state


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def holds(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(t, state[name]) for name, t in module.state_dict().items())


def test_torchvision_layout_loads_from_pth(tmp_path):
    state = classifier_file(tmp_path / "w.pth")
    module = SMALL.build()
    load_pretrained(module, replace(SMALL, weights=str(tmp_path / "w.pth")))
    assert holds(module, state)


def test_safetensors_load_with_their_digest_or_its_first_digits(tmp_path):
    path = tmp_path / "w.safetensors"
    config = SwinConfig(size="demo")
    state = config.build().state_dict()
    save_file(state, path)
    for pinned in (digest(path), digest(path)[:8]):
        module = config.build()
        load_pretrained(module, replace(config, weights=str(path), weights_sha256=pinned))
        assert holds(module, state)


def test_a_wrong_digest_is_refused_before_loading(tmp_path):
    classifier_file(tmp_path / "w.pth")
    module, fresh = SMALL.build(), SMALL.build()
    fresh.load_state_dict(module.state_dict())
    config = replace(SMALL, weights=str(tmp_path / "w.pth"), weights_sha256="deadbeef")
    with pytest.raises(CheckpointError, match="expected deadbeef"):
        load_pretrained(module, config)
    assert holds(module, fresh.state_dict())


def test_every_missing_unexpected_or_misshapen_name_is_listed():
    module = SMALL.build()
    state = dict(module.state_dict())
    del state["layer2.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(1, 3, 7, 7)
    with pytest.raises(CheckpointError) as told:
        load_state(module, state, name="w.pth")
    assert "missing: layer2.0.conv1.weight" in str(told.value)
    assert "unexpected: layer9.weight" in str(told.value)
    assert "conv1.weight (1, 3, 7, 7), not (16, 3, 7, 7)" in str(told.value)


def test_a_classifier_lacks_only_norms_of_levels_and_offsets():
    swin = SwinConfig(size="demo")
    state = {k: torch.randn_like(t) for k, t in swin.build().state_dict().items()}
    official = {k: t for k, t in state.items() if not re.match(r"norm\d", k)}
    official |= {
        "norm.weight": torch.zeros(256),
        "head.weight": torch.zeros(9, 256),
        "head.bias": torch.zeros(9),
    }
    official |= {"layers.0.blocks.1.attn_mask": torch.zeros(1)}
    module = swin.build()
    load_state(module, to_qdet(official), name="swin")
    assert torch.equal(module.get_parameter("patch_embed.norm.bias"), state["patch_embed.norm.bias"])
    assert (module.get_parameter("norm3.weight") == 1).all()

    dcn = ResNeXtDCNConfig(depth=14, width=16, weights=None)
    plain = {k: t for k, t in dcn.build().state_dict().items() if "conv_offset" not in k}
    load_state(dcn.build(), to_qdet(plain), name="resnext")


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_backbone_of_fewer_levels_takes_weights_of_all(outputs):
    """The maps that it returns are those of the whole backbone."""
    whole = SwinConfig(size="demo").build()
    last = SwinConfig(size="demo", outputs=outputs, weights="package:swin_demo.safetensors")
    some = last.build().eval()
    load_pretrained(some, last)
    load_pretrained(whole.eval(), SwinConfig(size="demo", weights="package:swin_demo.safetensors"))
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(some(images), whole(images)[-outputs:], strict=True):
            assert torch.equal(ours, theirs)


def test_a_whole_detector_gives_its_backbone(tmp_path):
    state = SMALL.build().state_dict()
    for prefix in ("backbone.0.body.", "backbone.body.", "backbone.", "module.backbone."):
        whole = {prefix + k: t for k, t in state.items()} | {"neck.weight": torch.zeros(2)}
        assert to_qdet(whole).keys() == state.keys(), prefix


def test_older_names_of_transformers_are_known_too():
    state = SwinConfig(size="demo").build().state_dict()
    renames = (
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("patch_embed.norm", "embeddings.norm"),
        ("attn.proj", "attention.output.dense"),
        ("attn.relative", "attention.self.relative"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        (".norm1", ".layernorm_before"),
        (".norm2", ".layernorm_after"),
    )
    theirs = {}
    for key, t in state.items():
        for ours, new in renames:
            key = key.replace(ours, new) if not re.match(r"norm\d", key) else key
        key = key.replace("layers.", "swin.encoder.layers.", 1) if key.startswith("layers") else f"swin.{key}"
        if ".attn.qkv." in key:
            for part, rows in zip(("query", "key", "value"), t.chunk(3), strict=True):
                theirs[key.replace("attn.qkv", f"attention.self.{part}")] = rows
        else:
            theirs[key] = t
    back = to_qdet(theirs)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)


def test_an_unknown_layout_is_refused_with_the_keys_it_has():
    with pytest.raises(CheckpointError, match="such as bert"):
        to_qdet({"bert.embeddings": torch.zeros(1)})


@pytest.mark.parametrize(
    "content", [b"", b"not weights", pickle.dumps(print, protocol=2)], ids=["empty", "text", "code"]
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        load_pretrained(SMALL.build(), replace(SMALL, weights=str(tmp_path / "w.pth")))


@pytest.mark.parametrize("weights", ["nowhere/w.pth", "package:nothing.safetensors"])
def test_a_file_that_is_not_there_is_named(weights):
    with pytest.raises(CheckpointError, match=re.escape(weights)):
        load_pretrained(SMALL.build(), replace(SMALL, weights=weights))


def test_imagenet_weights_are_refused_for_unpublished_sizes():
    for config in (replace(SMALL, weights="imagenet"), SwinConfig(size="demo"), ResNeXtDCNConfig(depth=50)):
        with pytest.raises(ConfigError, match=r"--detector\.backbone\.weights none"):
            load_pretrained(config.build(), config)


def test_impossible_settings_are_refused_by_their_flag():
    with pytest.raises(ConfigError, match=r"weights-sha256 must be 8 to 64"):
        ResNetConfig(weights_sha256="0676")
    with pytest.raises(ConfigError, match=r"--detector.backbone.weights is empty"):
        SwinConfig(weights="")
    with pytest.raises(ConfigError, match=r"--detector.backbone.drop-path"):
        SwinConfig(drop_path=1.0)
    with pytest.raises(ConfigError, match=r"--width-per-group 2"):
        ResNetConfig(width=16, groups=4, width_per_group=2)
