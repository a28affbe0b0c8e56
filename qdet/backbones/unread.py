"""Freeze the parameters of a backbone that the maps in use do not depend on."""

from collections.abc import Iterable

from torch import Tensor

from qdet.backbones.backbone import Backbone

SIDE = 64
"""Side in pixels of the image that dependence is traced with."""


def freeze_unread(backbone: Backbone, levels: slice) -> Backbone:
    """Freeze every parameter that the maps in `levels` do not depend on, such as the norms of other maps.

    They would get no gradient, which ZeRO and DDP treat as an error. Dependence is read off the autograd
    graph of one small forward pass, so that backbones need not declare it. The pass draws nothing and changes
    no statistics: what is built next starts from the same random numbers.
    """
    like, training = next(backbone.parameters(), None), backbone.training
    if like is None:
        return backbone
    read = _leaves(backbone.eval()(like.new_zeros(1, 3, SIDE, SIDE))[levels])
    for parameter in backbone.parameters():
        if parameter not in read:
            parameter.requires_grad_(False)
    return backbone.train(training)


def _leaves(outputs: Iterable[Tensor]) -> set[Tensor]:
    """Return the leaf tensors of the graph that `outputs` come from."""
    seen, ahead = set(), [output.grad_fn for output in outputs]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
    return {node.variable for node in seen if hasattr(node, "variable")}
