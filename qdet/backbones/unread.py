"""Freezing what no one reads: the parameters of a backbone that certain of its levels do not depend on."""

from collections.abc import Iterable

from torch import Tensor

from qdet.backbones.backbone import Backbone

SIDE = 64
"""Pixels of the image that dependence is traced with."""


def freeze_unread(backbone: Backbone, levels: slice) -> None:
    """Freeze every parameter that the maps in `levels` do not depend on.

    They would get no gradient, which ZeRO and DDP take for an error. What depends on what is read off the
    graph of one small forward pass, so that no backbone need say which parameters make which level.
    """
    like = next(backbone.parameters())
    maps = backbone(like.new_zeros(1, 3, SIDE, SIDE))
    read = _leaves(maps[levels])
    for parameter in backbone.parameters():
        if parameter not in read:
            parameter.requires_grad_(False)


def _leaves(outputs: Iterable[Tensor]) -> set[Tensor]:
    """Return the leaf tensors of the graph that `outputs` come from."""
    seen, ahead = set(), [output.grad_fn for output in outputs]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
    return {node.variable for node in seen if hasattr(node, "variable")}
