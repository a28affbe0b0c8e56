"""Our weights under transformers' names: the inverse of `qdet.convert`, found by converting labels.

Every number of transformers' model is labelled. Converting the labels as a checkpoint is converted tells
where each of them ends up, through all renaming, packing and tying; our numbers then go the way back. So
there is one table of names, in `qdet.convert`, for both directions.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from qdet.convert.papers.dab_detr import join_centers
from qdet.convert.rename import Table, convert
from qdet.convert.transformers import to_authors
from qdet.errors import ExportError


def fill(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], table: Table) -> None:
    """Copy our weights into the tensors of transformers' model.

    Where they tie heads that ours has one per layer, the last layer's is taken: its predictions are the
    detector's, and no other layer reads the class heads.

    Raises:
        ExportError: A tensor has no counterpart.
    """
    ours = join_centers(ours)
    labels, owners = _label(theirs)
    places = convert(to_authors(labels), table)
    lacking = sorted(places.keys() ^ ours.keys())
    if lacking:
        raise ExportError(f"transformers' model and ours differ in {', '.join(lacking[:5])}")
    values = torch.empty(sum(t.numel() for t in owners))
    given = torch.zeros(len(values), dtype=torch.bool)
    for name in sorted(places, key=_by_number):
        place = places[name]
        if place.shape != ours[name].shape:
            raise ExportError(
                f"{name} is {tuple(ours[name].shape)} here and {tuple(place.shape)} in transformers"
            )
        values[place.flatten()] = ours[name].flatten().float()
        given[place.flatten()] = True
    if not given.all():
        raise ExportError("transformers' model has weights that ours lacks")
    for tensor, part in zip(owners, values.split([t.numel() for t in owners]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts layers by their numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _label(state: Mapping[str, Tensor]) -> tuple[dict[str, Int[Tensor, "..."]], list[Tensor]]:
    """Number all elements, tied ones alike; return the numbers by name, and the tensors that own them."""
    known: dict[int, Tensor] = {}
    labels, owners, start = {}, [], 0
    for name, tensor in state.items():
        if tensor.data_ptr() not in known:
            numbers = torch.arange(start, start + tensor.numel()).view(tensor.shape)
            known[tensor.data_ptr()] = numbers
            owners.append(tensor)
            start += tensor.numel()
        labels[name] = known[tensor.data_ptr()]
    return labels, owners
