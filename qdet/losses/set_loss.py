"""Set loss: match queries to objects at every decoder stage, then compare matched pairs.

DETR (Carion et al., ECCV 2020, section 3.1), with its softmax classification or with the focal one of later
papers.

    S stages   B images   N queries   K classes   T objects of the batch   m matched pairs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qdet.boxes import xyxy_to_cxcywh
from qdet.errors import ConfigError
from qdet.layers.heads import Scores
from qdet.layers.precision import fp32_island
from qdet.losses.box import giou_loss, l1_loss
from qdet.losses.classification import focal_loss, softmax_loss, start_focal_loss
from qdet.losses.costs import Planes, focal_cost, giou_cost, l1_cost, parts
from qdet.losses.groups import Group, form_groups
from qdet.losses.matching import Assignment, Pending, assign, matched_objects, owners
from qdet.losses.reconstruction import compare_extra
from qdet.types import Predictions, Reconstruction, Targets


@dataclass(frozen=True, kw_only=True)
class SetLossConfig:
    """Weights of the loss and of the matching cost; the defaults are AdaMixer's."""

    scores: Scores = "sigmoid"
    """Classes on their own with focal loss, or one of them or no object with cross-entropy, as in DETR."""
    classification: float = 2.0
    """Weight of the classification loss."""
    l1: float = 5.0
    """Weight of the L1 distance of boxes, in normalized coordinates."""
    giou: float = 2.0
    """Weight of the generalised IoU loss."""
    match_classification: float = 2.0
    """Weight of classification in matching."""
    match_l1: float = 5.0
    """Weight of the L1 distance in matching."""
    match_giou: float = 2.0
    """Weight of the generalised IoU in matching."""
    l1_format: Literal["xyxy", "cxcywh"] = "xyxy"
    """Box format of the L1 distance: corners, or centre and size."""
    per: Literal["matched", "objects"] = "matched"
    """Divide losses by the matched pairs of the global batch, or by its objects, which can be more."""
    alpha: float = 0.25
    """Focal weight of positives; negatives get 1 - alpha."""
    gamma: float = 2.0
    """Focusing exponent of the focal loss."""
    no_object: float = 0.1
    """Weight of queries without an object in softmax classification."""
    giou_margin: float = 0.0
    """Added to GIoU's divisors, union and hull, in normalized area: 1e-6 in DAB-DETR's code."""
    log_eps: float = 1e-12
    """Floor of the focal cost's logarithms: 1e-12 in mmdetection, 1e-8 in the DETR family."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot train."""
        weights = ("classification", "l1", "giou")
        for name in (
            *weights,
            *(f"match_{w}" for w in weights),
            "gamma",
            "no_object",
            "giou_margin",
            "log_eps",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"--loss.{name.replace('_', '-')} must be 0 or more, got {getattr(self, name)}"
                )
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"--loss.alpha must be between 0 and 1, got {self.alpha}")

    def build(self, classes: int) -> "SetLoss":
        """Build the loss of a detector with that many classes."""
        return SetLoss(self, classes)


@dataclass(frozen=True)
class Losses:
    """The total loss and its terms."""

    total: Float[Tensor, ""]
    """Sum over stages of the three weighted terms."""
    terms: dict[str, Tensor]
    """Detached scalars: weighted terms summed over stages by name (`l1`), and of each stage (`stage0/l1`).

    Those of an encoder's proposals are called `proposals/l1`, those of extra queries `denoising/stage0/l1`,
    with `reconstruction` for the sum of the latter and `denoising/dropped` for the objects without any, and
    those of learned queries that only training has `one_to_many/stage0/l1`, with `one_to_many` for their sum.
    `pos_acc` is not part of the total: the fraction of matched queries whose best class is right, of the last
    stage and of each (`stage0/pos_acc`).
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
        matched: int | float | Tensor | None = None,
        truth: Reconstruction | None = None,
    ) -> Losses:
        """Sum the loss over objects and stages and divide it by `normalizer`.

        That is the number of objects of the whole global batch (at least 1) per rank and pass, see
        `counted_objects`: it makes the gradient of a global batch independent of how it is split. Softmax
        classification is divided by the summed weights of all queries instead, which follow from the number
        `matched`, counted in the same way; by default that of this batch. `truth` is what the extra queries
        of `stages` should find.
        """
        total, named = compare_extra(
            stages, truth, targets, sizes_hw, normalizer, self._focal, self._distances
        )
        for group in form_groups(stages, targets, sizes_hw):
            terms = self._compute_terms(group, normalizer, matched)
            accuracy = terms.pop("pos_acc").detach()
            if group.kept:
                named |= {f"{s}/pos_acc": a for s, a in zip(group.names, accuracy, strict=True)}
                named["pos_acc"] = accuracy[-1]
            for name, term in terms.items():
                each = group.weigh(term)
                named |= {f"{s}/{name}": v for s, v in zip(group.names, each.detach(), strict=True)}
                whole = name if group.kept else "one_to_many"
                named[whole] = named.get(whole, 0) + each.detach().sum()
                total = total + each.sum()
        return Losses(total, named)

    def match(
        self, stages: Sequence[Predictions], targets: Targets, sizes_hw: Int[Tensor, "B 2"]
    ) -> list[Assignment]:
        """Return the assignments of the loss: of each set of proposals, of all branches, of all stages."""
        return [self._match(group).result() for group in form_groups(stages, targets, sizes_hw)]

    @fp32_island("loss")
    def _compute_terms(
        self, group: Group, normalizer: int | float | Tensor, matched: int | float | Tensor | None
    ) -> dict[str, Float[Tensor, " S"]]:
        """Return the weighted terms of each stage, and `pos_acc`."""
        c, targets = self.config, group.targets
        pending = self._match(group)
        logits = group.logits.flatten(1, 2)  # [S, B N, K]
        if c.scores == "softmax":  # before the assignment is waited for
            finish = partial(softmax_loss, F.log_softmax(logits, dim=-1), no_object=c.no_object)
        else:
            finish = start_focal_loss(logits, alpha=c.alpha, gamma=c.gamma)
        pairs = pending.result()
        stage = torch.arange(len(group.logits), device=group.logits.device).unsqueeze(1)
        labels = targets.labels[pairs.objects]  # [S, m]
        found = group.boxes.flatten(1, 2)[stage, pairs.queries]  # [S, m, 4]
        wanted = targets.boxes_xyxy.to(found.dtype)[pairs.objects]
        extent = group.extent.to(found.dtype)[pairs.queries // group.logits.shape[2]]
        right = logits.detach()[stage, pairs.queries].argmax(-1) == labels
        classification, divisor = finish(stage, pairs.queries, labels), normalizer
        if c.scores == "softmax":
            count = labels.shape[1] if matched is None else matched
            divisor = count + c.no_object * (logits.shape[1] - count)
        l1, giou = self._distances(found, wanted, extent)
        return {
            "classification": c.classification * (classification / divisor),
            "l1": l1.sum(1) / normalizer,
            "giou": giou.sum(1) / normalizer,
            "pos_acc": right.to(found.dtype).sum(1) / max(labels.shape[1], 1),
        }

    @torch.no_grad()
    @fp32_island("loss")
    def _match(self, group: Group) -> Pending:
        """Compute the costs of all stages and images, object by object, and start to assign."""
        targets, device = group.targets, group.boxes.device
        stages, _, queries = group.logits.shape[:3]
        owner, total = owners(targets.counts, device), sum(targets.counts)
        planes = group.boxes.movedim(-1, 0).contiguous()
        cost = group.boxes.new_empty(stages, total, queries)
        for part in parts(total, stages * queries, device):
            cost[:, part] = self._costs(group, planes, owner[part], part)
        return assign(cost, targets.counts)

    def _focal(self, *inputs: Tensor, weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, " S"]:
        """Return the weighted focal loss of each stage."""
        c = self.config
        return c.classification * focal_loss(*inputs, alpha=c.alpha, gamma=c.gamma, weights=weights)

    def _distances(
        self, found: Float[Tensor, "S m 4"], wanted: Float[Tensor, "S m 4"], extent: Float[Tensor, "S m 4"]
    ) -> tuple[Float[Tensor, "S m"], Float[Tensor, "S m"]]:
        """Return the weighted L1 and GIoU losses of pairs."""
        l1 = l1_loss(self._l1_numbers(found, extent), self._l1_numbers(wanted, extent))
        return self.config.l1 * l1, self.config.giou * giou_loss(found, wanted, margin=self._margin(extent))

    def _costs(
        self, group: Group, planes: Float[Tensor, "4 S B N"], owner: Int[Tensor, " t"], part: slice
    ) -> Float[Tensor, "S t N"]:
        """Return the costs of a part of the objects, whose images are `owner`."""
        c, extent = self.config, group.extent.to(planes.dtype)[owner]  # [t, 4]
        here = planes[:, :, owner]  # [4, S, t, N]
        wanted = _columns(group.targets.boxes_xyxy[part].to(planes.dtype))
        scale = _columns(c.match_l1 / extent)
        cost = self._classification_cost(group.logits, owner, group.targets.labels[part])
        cost += l1_cost(_in_format(here, c.l1_format), _in_format(wanted, c.l1_format), scale)
        giou = giou_cost(here, wanted, margin=self._margin(extent.unsqueeze(1)))
        return cost.add_(giou, alpha=c.match_giou)

    def _classification_cost(
        self, logits: Float[Tensor, "S B N K"], owner: Int[Tensor, " t"], labels: Int[Tensor, " t"]
    ) -> Float[Tensor, "S t N"]:
        """Return the cost of every object's class for the queries of its image."""
        c, stage = self.config, torch.arange(len(logits), device=logits.device).unsqueeze(1)
        if c.scores == "softmax":
            likelihood = logits[stage, owner, :, labels] - logits.logsumexp(-1)[:, owner]
            return likelihood.exp_().mul_(-c.match_classification)
        cost = focal_cost(logits[stage, owner, :, labels], alpha=c.alpha, gamma=c.gamma, eps=c.log_eps)
        return cost.mul_(c.match_classification)

    def _l1_numbers(self, boxes_xyxy: Float[Tensor, "*n 4"], extent: Float[Tensor, "*#n 4"]) -> Tensor:
        """Return boxes in `l1_format`, in normalized coordinates."""
        boxes = boxes_xyxy if self.config.l1_format == "xyxy" else xyxy_to_cxcywh(boxes_xyxy)
        return boxes * (1 / extent)

    def _margin(self, extent: Float[Tensor, "*n 4"]) -> float | Float[Tensor, "*n"]:
        """Return `giou_margin` in square pixels."""
        margin = self.config.giou_margin
        return margin * extent[..., 0] * extent[..., 1] if margin else 0.0


def _columns(rows: Float[Tensor, "T 4"]) -> Float[Tensor, "4 1 T 1"]:
    """Return the columns of `rows`, to be compared with planes [S T N]."""
    return rows.T[:, None, :, None]


def _in_format(xyxy: Planes, l1_format: Literal["xyxy", "cxcywh"]) -> Planes:
    if l1_format == "xyxy":
        return xyxy
    low, high = xyxy.split(2)
    return torch.cat(((low + high) / 2, high - low))


def counted_objects(targets: Targets, queries: int, per: Literal["matched", "objects"]) -> int:
    """Return a batch's contribution to the divisor of the losses."""
    return matched_objects(targets, queries) if per == "matched" else sum(targets.counts)
