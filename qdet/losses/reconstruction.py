"""The loss of extra queries: each knows its object, so nothing is matched.

DN-DETR (Li et al., CVPR 2022), section 4.4, and DINO (Zhang et al., ICLR 2023), section 3.3.

    S stages   B images   P extra queries   K classes   m queries that should find an object
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qdet.layers.precision import fp32_island
from qdet.types import Predictions, Reconstruction, Reconstructions, Targets

Distances = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Boxes found and wanted [S, m, 4], and their images' extent, to weighted L1 and GIoU losses [S, m]."""
Focal = Callable[..., Tensor]
"""Weighted focal loss of each stage [S], for the arguments of `focal_loss`."""


def compare_extra(
    stages: Sequence[Predictions],
    truth: Reconstruction | None,
    targets: Targets,
    sizes_hw: Int[Tensor, "B 2"],
    normalizer: int | float | Tensor,
    focal: Focal,
    distances: Distances,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the loss of the extra queries in `stages` and its terms; 0 and none without them."""
    found = [p for p in stages if isinstance(p, Reconstructions)]
    if truth is None or not found:
        return torch.zeros((), device=sizes_hw.device), {}
    terms = _compute_terms(found, truth, targets, sizes_hw, normalizer, focal, distances)
    total = torch.stack([*terms.values()]).sum()
    named = {
        f"denoising/stage{i}/{name}": value
        for name, term in terms.items()
        for i, value in enumerate(term.detach())
    }
    dropped = torch.full((), float(truth.dropped), device=total.device)
    return total, named | {"reconstruction": total.detach(), "denoising/dropped": dropped}


@fp32_island("loss")
def _compute_terms(
    stages: Sequence[Predictions],
    truth: Reconstruction,
    targets: Targets,
    sizes_hw: Int[Tensor, "B 2"],
    normalizer: int | float | Tensor,
    focal: Focal,
    distances: Distances,
) -> dict[str, Float[Tensor, " S"]]:
    """Return the weighted terms of each stage.

    The sums of an image are divided by its groups and by `normalizer`, the objects of the global batch: a
    mean over groups, whose expectation does not depend on their number.
    """
    logits = torch.stack([p.logits for p in stages])
    boxes = torch.stack([p.boxes_xyxy for p in stages]).flatten(1, 2)
    stage = torch.arange(len(stages), device=logits.device).unsqueeze(1)
    queries, objects = (t.expand(len(stages), -1) for t in (truth.queries, truth.objects))
    share = (truth.counted.to(boxes.dtype) / truth.groups.unsqueeze(1)).flatten()  # [B P]
    classification = focal(logits.flatten(1, 2), stage, queries, targets.labels[objects], weights=share)
    wanted = targets.boxes_xyxy.to(boxes.dtype)[objects]
    extent = sizes_hw.flip(-1).repeat(1, 2).to(boxes.dtype)[queries // max(logits.shape[2], 1)]
    l1, giou = distances(boxes[stage, queries], wanted, extent)
    sums = {"l1": (l1 * share[queries]).sum(1), "giou": (giou * share[queries]).sum(1)}
    return {name: total / normalizer for name, total in ({"classification": classification} | sums).items()}
