"""Predictions of equal shape, which are matched and compared in one batch.

S stages   B images   N queries   K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qdet.types import Branches, Predictions, Proposals, Reconstructions, Targets


@dataclass(frozen=True)
class Group:
    """Predictions of equal shape, matched with the same objects."""

    names: list[str]
    """Of the stages; where there are branches, each stands for those of a stage."""
    logits: Float[Tensor, "S B N K"]
    boxes: Float[Tensor, "S B N 4"]
    targets: Targets
    extent: Int[Tensor, "B 4"]
    factor: float = 1.0
    """Factor of the loss."""
    kept: bool = True
    """Whether the detector keeps these queries after training."""

    def weigh(self, term: Float[Tensor, " S"]) -> Float[Tensor, " n"]:
        """Return what each of the named stages adds to the loss; a GPU has nothing to do without branches."""
        if len(term) > len(self.names):
            term = term.unflatten(0, (len(self.names), -1)).sum(1)
        return term if self.factor == 1.0 else self.factor * term


def form_groups(stages: Sequence[Predictions], targets: Targets, sizes_hw: Int[Tensor, "B 2"]) -> list[Group]:
    """Put each set of proposals in its own group, then all branches, then the decoder's stages."""
    extent = sizes_hw.flip(-1).repeat(1, 2)
    groups = [_of_proposals(p, targets, extent) for p in stages if isinstance(p, Proposals)]
    branches = [p for p in stages if isinstance(p, Branches)]
    if branches:
        groups.append(_of_branches(branches, targets, extent))
    decoded = [p for p in stages if not isinstance(p, Proposals | Reconstructions | Branches)]
    names = [f"stage{i}" for i in range(len(decoded))]
    logits, boxes = _stack(decoded)
    factor = branches[0].own_weight if branches else 1.0
    return [*groups, Group(names, logits, boxes, targets, extent, factor)]


def _of_proposals(p: Proposals, targets: Targets, extent: Int[Tensor, "B 4"]) -> Group:
    if p.class_agnostic:
        targets = replace(targets, labels=torch.zeros_like(targets.labels))
    return Group(["proposals"], p.logits[None], p.boxes_xyxy[None], targets, extent)


def _of_branches(stages: Sequence[Branches], targets: Targets, extent: Int[Tensor, "B 4"]) -> Group:
    """Treat every branch of a stage like a stage of its own, for objects that are there `repeats` times.

    Their loss is divided by as many (H-DETR, CVPR 2023, section 3.2).
    """
    first = stages[0]
    logits, boxes = (t.unflatten(2, (first.count, -1)).movedim(2, 1).flatten(0, 1) for t in _stack(stages))
    repeated = Targets(
        targets.boxes_xyxy.repeat_interleave(first.repeats, dim=0),
        targets.labels.repeat_interleave(first.repeats, dim=0),
        tuple(n * first.repeats for n in targets.counts),
    )
    names = [f"one_to_many/stage{i}" for i in range(len(stages))]
    return Group(names, logits, boxes, repeated, extent, first.weight / first.repeats, kept=False)


def _stack(stages: Sequence[Predictions]) -> tuple[Float[Tensor, "S B N K"], Float[Tensor, "S B N 4"]]:
    return torch.stack([p.logits for p in stages]), torch.stack([p.boxes_xyxy for p in stages])
