"""Checkpoint layouts: other projects' names for the tensors of the same backbones.

qdet keeps torchvision's names for ResNets and the authors' names for Swin. This file renames the others:
detectron2's ResNet, transformers' ResNet and Swin (versions 4 and 5), and the Swin of AdaMixer's mmdetection
fork.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from qdet.errors import CheckpointError

State = dict[str, Tensor]

FRESH = re.compile(r"^norm[0-3]\.|\.conv_offset\.")
"""Parameters that a classifier's file lacks; they keep their initial values."""
LEVEL_NORM = re.compile(r"^norm[0-3]\.(weight|bias)$")
"""Swin's norms of levels, of which a detector that reads fewer levels has fewer than the file."""

# Classifiers, counters and tables that are computed rather than learned.
_DROPPED = re.compile(
    r"^(fc|head|norm|classifier(\.\d+)?|layernorm|hidden_states_norms\.stem)\.(weight|bias)$"
    r"|num_batches_tracked$|relative_position_index$|attn_mask$"
)
# Where whole detectors keep their backbone (DETR family, its Swin, Anchor DETR, detectron2, mmdetection).
_DETECTORS = ("backbone.0.body.", "backbone.0.", "backbone.body.", "backbone.bottom_up.", "backbone.")
_WRAPPERS = ("module.", *_DETECTORS, "swin.", "resnet.")


def to_qdet(state: State) -> State:
    """Rename a checkpoint's tensors to qdet's names, dropping those that no backbone needs.

    Of a whole detector's checkpoint, only tensors under `backbone.` are kept.
    """
    state = _without_prefix(state)
    for marker, convert in _LAYOUTS:
        if marker in state:
            state = convert({key: value for key, value in state.items() if not _DROPPED.search(key)})
            return {key: value for key, value in state.items() if not _DROPPED.search(key)}
    known = ", ".join(marker for marker, _ in _LAYOUTS)
    shown = ", ".join(sorted(state)[:5])
    raise CheckpointError(f"unknown layout of weights: none of {known} is among its names, such as {shown}")


def _without_prefix(state: State) -> State:
    for prefix in _WRAPPERS:
        inside = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
        if inside and prefix not in _DETECTORS:
            inside |= {key: t for key, t in state.items() if not key.startswith(prefix)}
        state = inside or state
    return state


def _make_renamer(*rules: tuple[str, str]) -> Callable[[State], State]:
    """Return a converter that applies every rule (pattern, replacement) to every name."""
    compiled = [(re.compile(pattern), new) for pattern, new in rules]

    def convert(state: State) -> State:
        return {_apply(compiled, key): value for key, value in state.items()}

    return convert


def _apply(rules: list[tuple[re.Pattern[str], str]], key: str) -> str:
    for pattern, new in rules:
        key = pattern.sub(new, key)
    return key


_mmdet_names = _make_renamer(
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)


def _from_mmdet_swin(state: State) -> State:
    state = _mmdet_names(state)
    return {key: _merging_order(value) if ".downsample." in key else value for key, value in state.items()}


def _merging_order(value: Tensor) -> Tensor:
    """Reorder the inputs of patch merging to the authors' order.

    That fork's unfold gives, per channel, the neighbours (row, column) (0, 0), (0, 1), (1, 0), (1, 1); the
    authors give, per neighbour (0, 0), (1, 0), (0, 1), (1, 1), the channels.
    """
    return value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-2, -1).flatten(-2)


_from_detectron2_resnet = _make_renamer(
    (r"^stem\.", ""),
    (r"(?<=\.)shortcut\.norm\.", "downsample.1."),
    (r"(?<=\.)shortcut\.", "downsample.0."),
    (r"conv(\d)\.norm\.", r"bn\1."),
    *((rf"^res{stage + 1}\.", f"layer{stage}.") for stage in range(1, 5)),
)


def _stage(match: re.Match[str]) -> str:
    return f"layer{int(match[1]) + 1}.{match[2]}."


def _from_transformers_resnet(state: State) -> State:
    rules = _make_renamer(
        (r"^embedder\.embedder\.convolution\.", "conv1."),
        (r"^embedder\.embedder\.normalization\.", "bn1."),
        (r"shortcut\.convolution\.", "downsample.0."),
        (r"shortcut\.normalization\.", "downsample.1."),
    )
    renamed = {}
    for key, value in rules(state).items():
        key = re.sub(r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", _stage, key)
        key = re.sub(r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}.", key)
        key = re.sub(r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}.", key)
        renamed[key] = value
    return renamed


_transformers_swin_names = _make_renamer(
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (
        r"\.attention\.(self\.|relative_position_bias\.)?relative_position_bias_table",
        ".attn.relative_position_bias_table",
    ),
    (r"\.attention\.(o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.attention\.(self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attn.v."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def _from_transformers_swin(state: State) -> State:
    state = _transformers_swin_names(state)
    packed = {}
    for key, value in state.items():
        level = re.match(r"^hidden_states_norms\.stage(\d)\.(\w+)$", key)
        if level:
            packed[f"norm{int(level[1]) - 1}.{level[2]}"] = value
        elif ".attn.q." in key:
            parts = [state[key.replace(".attn.q.", f".attn.{part}.")] for part in "qkv"]
            packed[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
        elif ".attn.k." not in key and ".attn.v." not in key:
            packed[key] = value
    return packed


def _as_it_is(state: State) -> State:
    return state


# A name that identifies the layout, and its converter.
_LAYOUTS: tuple[tuple[str, Callable[[State], State]], ...] = (
    ("conv1.weight", _as_it_is),
    ("stem.conv1.weight", _from_detectron2_resnet),
    ("patch_embed.proj.weight", _as_it_is),
    ("patch_embed.projection.weight", _from_mmdet_swin),
    ("embedder.embedder.convolution.weight", _from_transformers_resnet),
    ("embeddings.patch_embeddings.projection.weight", _from_transformers_swin),
)
