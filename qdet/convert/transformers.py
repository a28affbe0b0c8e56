"""Convert transformers' names for DETR's family back to those of the papers' authors.

For DETR, Conditional DETR, Deformable DETR and DAB-DETR of versions 4 and 5, from `state_dict()` or
`save_pretrained`. Separate queries, keys and values are packed as the authors do.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MARK = re.compile(r"model\.encoder\.layers\.0\.self_attn_layer_norm\.weight")

_BACKBONE = (r"^model\.backbone\.(conv_encoder\.)?model\.", "backbone.0.body.")
_RULES: tuple[tuple[str, str], ...] = (
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^model\.query_refpoint_embeddings\.", "refpoint_embed."),
    (r"^model\.(input_projection|input_proj)\.", "input_proj."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"^model\.", "transformer."),
    (r"(?<=decoder\.)layernorm\.", "norm."),
    (r"\.mlp\.", "."),
    (r"\.fc(\d)\.", r".linear\1."),
    (r"\.activation_fn\.", ".activation."),
    (r"\.o_proj\.", ".out_proj."),
    # DAB-DETR wraps both attentions of a decoder layer with their projections and norm.
    (r"\.(self|cross)_attn\.\1_attn_layer_norm\.", r".\1_attn_layer_norm."),
    (r"\.(self|cross)_attn\.\1_attn\.output_proj\.", r".\1_attn.out_proj."),
    (r"\.(s|c)\w+_attn\.\w+_attn_query_(content|pos|pos_sine)_proj\.", r".\1a_q\2_proj."),
    (r"\.(s|c)\w+_attn\.\w+_attn_key_(content|pos)_proj\.", r".\1a_k\2_proj."),
    (r"\.(s|c)\w+_attn\.\w+_attn_value_proj\.", r".\1a_v_proj."),
    # Conditional DETR does so with the projections since version 5.
    (r"\.encoder_attn\.(q|k)_(content|pos|pos_sine)_proj\.", r".ca_\1\2_proj."),
    (r"\.self_attn\.(q|k)_(content|pos)_proj\.", r".sa_\1\2_proj."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.(encoder|cross)_attn_layer_norm\.", ".norm2."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"(?<=encoder\.layers\.)(\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
)
_DETR: tuple[tuple[str, str], ...] = ((r"\.cross_attn\.", ".multihead_attn."),)
_CONDITIONAL: tuple[tuple[str, str], ...] = (
    (r"(?<=decoder\.layers\.)(\d+)\.self_attn\.v_proj\.", r"\1.sa_v_proj."),
    (r"(?<=decoder\.layers\.)(\d+)\.cross_attn\.v_proj\.", r"\1.ca_v_proj."),
)
_DEFORMABLE: tuple[tuple[str, str], ...] = (
    (r"(?<=decoder\.layers\.)(\d+)\.norm1\.", r"\1.NORM."),  # the authors number in order of definition
    (r"(?<=decoder\.layers\.)(\d+)\.norm2\.", r"\1.norm1."),
    (r"(?<=decoder\.layers\.)(\d+)\.NORM\.", r"\1.norm2."),
)


def is_of_transformers(state: Mapping[str, Tensor]) -> bool:
    """Return whether these are the names of a whole detector of transformers."""
    return any(MARK.fullmatch(key) for key in state)


def to_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state as the paper's authors would have saved it."""
    if "model.level_embed" in state:
        rules = _RULES + _DEFORMABLE
    elif any("ref_point_head" in key for key in state):
        rules = _RULES + _CONDITIONAL
    else:
        rules = _RULES + _DETR
    renamed = {}
    for key, value in state.items():
        new = re.sub(*_BACKBONE, key)
        if new == key:
            for pattern, name in rules:
                new = re.sub(pattern, name, new)
        renamed[new] = value
    return _untie_class_heads(_pack_attention(renamed))


def _pack_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack the projections of each attention as `torch.nn.MultiheadAttention` does."""
    packed = {}
    for key, value in state.items():
        part = re.fullmatch(r"(.*\.)(q|k|v)_proj\.(weight|bias)", key)
        if part is None:
            packed[key] = value
        elif part[2] == "q":
            parts = [state[f"{part[1]}{which}_proj.{part[3]}"] for which in "qkv"]
            packed[f"{part[1]}in_proj_{part[3]}"] = torch.cat(parts)
    return packed


def _untie_class_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the shared class head of a refining Deformable DETR to each layer; files store it only once."""
    layers = {m[1] for key in state if (m := re.match(r"transformer\.decoder\.bbox_embed\.(\d+)\.", key))}
    shared = {key: t for key, t in state.items() if key.startswith("class_embed.0.")}
    copies = {key.replace(".0.", f".{layer}."): t for layer in layers for key, t in shared.items()}
    return copies | dict(state)
