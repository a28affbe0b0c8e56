"""Authors' checkpoints to qdet's names: one rename table per paper.

    state = convert(torch.load("adamixer_r50.pth", weights_only=True)["state_dict"], ADAMIXER)
    AdaMixerConfig().build(80).load_state_dict(state)

A table is a list of (pattern, name): every key of the authors' detector outside its backbone must match one
pattern whole, and no two keys may become the same name. Backbones have their own layouts in
`qdet.backbones.layouts`.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from qdet.backbones.layouts import to_qdet
from qdet.errors import CheckpointError

Table = tuple[tuple[str, str], ...]

_STAGE = r"roi_head\.bbox_head\.(\d+)\."

ADAMIXER: Table = (
    (r"neck\.lateral_convs\.(\d+)\.conv\.(weight|bias)", r"neck.lateral.\1.\2"),
    (r"neck\.gn_out\.(weight|bias)", r"neck.norm.\1"),
    (r"rpn_head\.init_proposal_bboxes\.weight", "decoder.first_boxes_cxcywh"),
    (r"rpn_head\.init_content_features\.weight", "decoder.content.weight"),
    *(
        (_STAGE + pattern, r"decoder.stages.\1." + name)
        for pattern, name in (
            (r"iof_tau", "attention.overlap_scale"),
            (r"attention\.attn\.in_proj_(weight|bias)", r"attention.qkv.\2"),
            (r"attention\.attn\.out_proj\.(weight|bias)", r"attention.out.\2"),
            (r"(attention_norm|ffn_norm)\.(weight|bias)", r"\2.\3"),
            (r"sampling_n_mixing\.sampling_offset_generator\.0\.(weight|bias)", r"sampling.offsets.\2"),
            (
                r"sampling_n_mixing\.adaptive_mixing\.parameter_generator\.0\.(weight|bias)",
                r"mixing.weights.\2",
            ),
            (r"sampling_n_mixing\.adaptive_mixing\.out_proj\.(weight|bias)", r"mixing.out.\2"),
            (r"sampling_n_mixing\.norm\.(weight|bias)", r"mixing_norm.\2"),
            (r"ffn\.layers\.0\.0\.(weight|bias)", r"ffn.expand.\2"),
            (r"ffn\.layers\.1\.(weight|bias)", r"ffn.contract.\2"),
            (r"cls_fcs\.(\d+)\.(weight|bias)", r"class_tower.\2.\3"),
            (r"reg_fcs\.(\d+)\.(weight|bias)", r"box_tower.\2.\3"),
            (r"fc_cls\.(weight|bias)", r"class_head.\2"),
            (r"fc_reg\.(weight|bias)", r"box_head.\2"),
        )
    ),
)
"""MCG-NJU/AdaMixer. First boxes are a parameter there, though one without a gradient, and a buffer here."""


def convert(official: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Rename a detector's tensors to qdet's names, each used exactly once.

    Raises:
        CheckpointError: keys that the table does not know, or that would become the same name.
    """
    official = {key.removeprefix("module."): value for key, value in official.items()}
    backbone = {key: value for key, value in official.items() if key.startswith("backbone.")}
    names = {key: rename(key, table) for key in official if key not in backbone}
    unknown = sorted(key for key, name in names.items() if name is None)
    if unknown:
        raise CheckpointError(f"not a checkpoint of this detector, it has: {', '.join(unknown[:10])}")
    state = {name: official[key] for key, name in names.items() if name is not None}
    if len(state) < len(names):
        raise CheckpointError("two tensors of the checkpoint have the same name here")
    if backbone:
        state |= {f"backbone.{name}": value for name, value in to_qdet(backbone).items()}
    return state


def rename(key: str, table: Table) -> str | None:
    """Return qdet's name of one of the authors' keys, None where no row or more than one knows it."""
    names = [match.expand(name) for pattern, name in table if (match := re.fullmatch(pattern, key))]
    return names[0] if len(names) == 1 else None
