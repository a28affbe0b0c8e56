"""Matching and losses in the order of mmdetection 2: stage by stage, image by image (see `authors_order`).

N queries   M objects of an image   K classes
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ALPHA, GAMMA = 0.25, 2.0
Objects = Sequence[tuple[Tensor, Tensor]]
"""Boxes [M 4] and labels [M] of each image."""


def stage_losses(
    logits: Tensor, boxes: Tensor, objects: Objects, extent: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted class, L1 and GIoU losses of one stage: [B N K], [B N 4], extent [B 4]."""
    labels, wanted = [], []
    for i, (own, names) in enumerate(objects):
        found = assign(logits[i].detach(), boxes[i].detach(), own, names, extent[i])
        positive = torch.nonzero(found > 0, as_tuple=False).squeeze(-1).unique()
        label = found.new_full((boxes.shape[1],), classes)
        box = boxes.new_zeros(boxes.shape[1], 4)
        if len(positive):
            label[positive] = names[found[positive] - 1]
            box[positive] = own[found[positive] - 1]
        labels.append(label)
        wanted.append(box)
    label, want = torch.cat(labels), torch.cat(wanted)
    positive = (label >= 0) & (label < classes)
    count = positive.sum().float().clamp(min=1)
    flat, size = boxes.flatten(0, 1), extent[:, None].expand(-1, boxes.shape[1], -1).flatten(0, 1)
    by_class = 2.0 * focal_loss(logits.flatten(0, 1), label) / count
    if not positive.any():
        return by_class, flat.sum() * 0, flat.sum() * 0
    at, to, of = flat[positive], want[positive], size[positive]
    l1 = 5.0 * (at / of - to / of).abs().sum() / count
    giou = 2.0 * (1 - overlap(at, to, pairs=False, eps=1e-7)).sum() / count
    return by_class, l1, giou


def assign(logits: Tensor, boxes: Tensor, own: Tensor, names: Tensor, extent: Tensor) -> Tensor:
    """Return for each query of an image its object, counted from 1, or 0."""
    found = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    if not len(own):
        return found
    cost = focal_cost(logits, names)
    cost = cost + torch.cdist(boxes / extent, own / extent, p=1) * 5.0
    cost = cost - overlap(boxes, own, pairs=True, eps=1e-6) * 2.0
    rows, columns = (torch.from_numpy(i).to(boxes.device) for i in linear_sum_assignment(cost.cpu()))
    found[rows] = columns + 1
    return found


def focal_cost(logits: Tensor, names: Tensor) -> Tensor:
    """Return [N M]: what each class probability adds to the cost of a match."""
    p = logits.sigmoid()
    negative = -(1 - p + 1e-12).log() * (1 - ALPHA) * p.pow(GAMMA)
    positive = -(p + 1e-12).log() * ALPHA * (1 - p).pow(GAMMA)
    return (positive[:, names] - negative[:, names]) * 2.0


def focal_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return the sum over queries and classes; label K is no object."""
    p = logits.sigmoid()
    t = F.one_hot(label, logits.shape[1] + 1)[:, :-1].type_as(logits)
    error = (1 - p) * t + p * (1 - t)
    weight = (ALPHA * t + (1 - ALPHA) * (1 - t)) * error.pow(GAMMA)
    return (F.binary_cross_entropy_with_logits(logits, t, reduction="none") * weight).sum()


def overlap(a: Tensor, b: Tensor, *, pairs: bool, eps: float) -> Tensor:
    """Return the generalised IoU of boxes: row by row, or [N M] of all pairs."""
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    if pairs:
        a, b, area_a, area_b = a[:, None], b[None], area_a[:, None], area_b[None]
    both = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (area_a + area_b - both).clamp(min=eps)
    hull = (torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = hull.clamp(min=eps)
    return both / union - (hull - union) / hull
