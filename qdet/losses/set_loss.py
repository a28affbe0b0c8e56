"""Set loss: match queries to objects at every decoder stage, then pull the matched ones to their objects.

DETR (Carion et al., ECCV 2020) with focal classification, as in AdaMixer (CVPR 2022) and its authors' code.

    S stages   B images   N queries   K classes   T objects of the fullest image   m matched pairs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qdet.errors import ConfigError
from qdet.layers.precision import fp32_island
from qdet.losses.box import giou_cost, giou_loss, l1_cost, l1_loss
from qdet.losses.focal import focal_cost, focal_loss
from qdet.losses.matching import Assignment, assign
from qdet.types import Predictions, Targets


@dataclass(frozen=True, kw_only=True)
class SetLossConfig:
    """Weights of the loss and of the matching cost; the defaults are AdaMixer's."""

    focal: float = 2.0
    """Weight of the classification loss."""
    l1: float = 5.0
    """Weight of the L1 distance between corners, in shares of the image."""
    giou: float = 2.0
    """Weight of the generalised IoU loss."""
    match_focal: float = 2.0
    """Weight of classification when queries are matched to objects."""
    match_l1: float = 5.0
    """Weight of the L1 distance in matching."""
    match_giou: float = 2.0
    """Weight of the generalised IoU in matching."""
    alpha: float = 0.25
    """Focal weight of the class that is there; those that are not get 1 - alpha."""
    gamma: float = 2.0
    """How strongly the focal loss ignores what is classified well already."""

    def __post_init__(self) -> None:
        """Reject what could never train, in the words of the command line."""
        for name in ("focal", "l1", "giou", "match_focal", "match_l1", "match_giou", "gamma"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"--loss.{name.replace('_', '-')} must be 0 or more, got {getattr(self, name)}"
                )
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"--loss.alpha must be between 0 and 1, got {self.alpha}")

    def build(self, classes: int) -> "SetLoss":
        """Make the loss of a detector of that many classes."""
        return SetLoss(self, classes)


@dataclass(frozen=True)
class Losses:
    """What to minimise, and what it is made of."""

    total: Float[Tensor, ""]
    """Sum over stages of the three weighted terms."""
    terms: dict[str, Tensor]
    """Detached scalars: weighted terms summed over stages by name (`l1`), and of each stage (`stage0/l1`).

    `pos_acc` is not part of the total: the share of matched queries whose best class is right, of the last
    stage, and of each (`stage0/pos_acc`).
    """


class SetLoss(nn.Module):
    """Match and compare all stages and images in one batched computation after the forward pass."""

    def __init__(self, config: SetLossConfig, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes

    def forward(
        self,
        stages: Sequence[Predictions],
        targets: Targets,
        sizes_hw: Int[Tensor, "B 2"],
        *,
        normalizer: int | float | Tensor,
    ) -> Losses:
        """Sum the loss over objects and stages and divide it by `normalizer`.

        That is the number of matched objects of the whole global batch (at least 1) per rank and pass, see
        `matched_objects`: it makes the gradient of a global batch independent of how it is split.
        """
        logits = torch.stack([s.logits for s in stages])
        boxes = torch.stack([s.boxes_xyxy for s in stages])
        terms = self._terms(logits, boxes, targets, sizes_hw.flip(-1).repeat(1, 2))
        weighted = {
            name: terms[name] * (getattr(self.config, name) / normalizer) for name in ("focal", "l1", "giou")
        }
        total = torch.stack([term.sum() for term in weighted.values()]).sum()
        named = {name: term.detach().sum() for name, term in weighted.items()}
        named["pos_acc"] = terms["pos_acc"][-1]
        for name, term in {**weighted, "pos_acc": terms["pos_acc"]}.items():
            named |= {f"stage{i}/{name}": value for i, value in enumerate(term.detach())}
        return Losses(total, named)

    def match(
        self, stages: Sequence[Predictions], targets: Targets, sizes_hw: Int[Tensor, "B 2"]
    ) -> Assignment:
        """Return the assignment that the loss uses."""
        logits = torch.stack([s.logits for s in stages])
        boxes = torch.stack([s.boxes_xyxy for s in stages])
        return self._match(logits, boxes, targets, sizes_hw.flip(-1).repeat(1, 2))

    @fp32_island("loss")
    def _terms(
        self,
        logits: Float[Tensor, "S B N K"],
        boxes: Float[Tensor, "S B N 4"],
        targets: Targets,
        extent: Int[Tensor, "B 4"],
    ) -> dict[str, Float[Tensor, " S"]]:
        """Unweighted sums over the images of each stage."""
        pairs = self._match(logits, boxes, targets, extent)
        stage = torch.arange(len(logits), device=logits.device).unsqueeze(1)
        labels = targets.labels[pairs.objects]  # [S, m]
        target = torch.zeros_like(logits).flatten(1, 2)
        target[stage, pairs.queries, labels] = 1
        flat = logits.flatten(1, 2)  # [S, B N, K]
        found = boxes.flatten(1, 2)[stage, pairs.queries]  # [S, m, 4]
        wanted = targets.boxes_xyxy.to(boxes.dtype)[pairs.objects]
        share = 1 / extent.to(boxes.dtype)[pairs.queries // logits.shape[2]]
        right = flat.detach()[stage, pairs.queries].argmax(-1) == labels
        return {
            "focal": focal_loss(flat, target, alpha=self.config.alpha, gamma=self.config.gamma).sum((1, 2)),
            "l1": l1_loss(found * share, wanted * share).sum(1),
            "giou": giou_loss(found, wanted).sum(1),
            "pos_acc": right.to(boxes.dtype).sum(1) / max(labels.shape[1], 1),
        }

    @torch.no_grad()
    @fp32_island("loss")
    def _match(
        self,
        logits: Float[Tensor, "S B N K"],
        boxes: Float[Tensor, "S B N 4"],
        targets: Targets,
        extent: Int[Tensor, "B 4"],
    ) -> Assignment:
        """Compute every cost that a stage and image needs, padded to the fullest image, and assign."""
        rows, present = _padded_rows(targets.counts, logits.device)
        if not rows.numel():
            return assign(boxes.new_zeros(*boxes.shape[:3], 0), targets.counts)
        labels = (targets.labels[rows] * present)[None, :, None].expand(len(logits), -1, logits.shape[2], -1)
        wanted = targets.boxes_xyxy.to(boxes.dtype)[rows].expand(len(boxes), -1, -1, -1)  # [S, B, T, 4]
        share = 1 / extent.to(boxes.dtype).unsqueeze(1)
        c = self.config
        cost = c.match_focal * focal_cost(logits.gather(-1, labels), alpha=c.alpha, gamma=c.gamma)
        cost += c.match_l1 * l1_cost(boxes * share, wanted * share)
        cost += c.match_giou * giou_cost(boxes, wanted)
        return assign(cost, targets.counts)


def _padded_rows(
    counts: Sequence[int], device: torch.device
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Rows of the packed objects by image, other rows where an image has fewer, and which are its own."""
    first = list(accumulate(counts, initial=0))
    steps = range(max(counts, default=0))
    rows = [[min(start + t, first[-1] - 1) for t in steps] for start in first[:-1]]
    present = [[t < n for t in steps] for n in counts]
    return (
        torch.tensor(rows, dtype=torch.long).to(device, non_blocking=True),
        torch.tensor(present, dtype=torch.bool).to(device, non_blocking=True),
    )
