"""Targets and losses of the backbone's pre-training, per cell of a feature map.

cell   a stride x stride square of pixels; its target is the share of each class among its pixels
B images   K classes, background last   h, w cells of a level
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from data_prep.rendering.shapes import CLASSES, Scene

BACKGROUND = len(CLASSES)
BACKGROUND_WEIGHT = 0.25  # of background cells in the cross entropy; most cells are background
LEVEL_WEIGHTS = (0.05, 0.1, 0.4, 1.0)  # of `name_loss`; fine levels see too little of a shape to learn much
GEOMETRY_SCALE = 32.0  # pixels; box centres and sides are learned in these units


@dataclass(frozen=True)
class Cells:
    """Targets of a batch's cells."""

    shares: Float[Tensor, "B K h w"]
    """Share of each class, background last, among the cell's pixels."""
    geometry: Float[Tensor, "B 4 h w"]
    """Box at the cell's centre: offset of its centre and log2 of its sides, in units of GEOMETRY_SCALE."""
    covered: Float[Tensor, "B h w"]
    """1 where an object covers the cell's centre, else 0."""


def compute_cells(scenes: Sequence[Scene], stride: int) -> Cells:
    """Compute the targets of each cell of `stride` x `stride` pixels."""
    owners = torch.from_numpy(np.stack([s.owners for s in scenes])).long()
    classes = torch.stack([_by_owner(s.labels, BACKGROUND)[o] for s, o in zip(scenes, owners, strict=True)])
    onehot = F.one_hot(classes, BACKGROUND + 1).permute(0, 3, 1, 2).float()
    middles = owners[:, stride // 2 :: stride, stride // 2 :: stride]
    boxes = torch.stack([_by_owner(s.boxes_xyxy, 0)[o] for s, o in zip(scenes, middles, strict=True)])
    at = torch.arange(middles.shape[-1]) * stride + stride / 2
    middle_xy = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)
    centre = ((boxes[..., :2] + boxes[..., 2:]) / 2 - middle_xy) / GEOMETRY_SCALE
    sides = ((boxes[..., 2:] - boxes[..., :2]).clamp(min=1) / GEOMETRY_SCALE).log2()
    geometry = torch.cat([centre, sides], -1).permute(0, 3, 1, 2)
    return Cells(F.avg_pool2d(onehot, stride), geometry, (middles >= 0).float())


def _by_owner(values: np.ndarray, background: int) -> Tensor:
    """Append the background's value, so that owner -1 indexes it."""
    return torch.from_numpy(
        np.concatenate([values, np.full((1, *values.shape[1:]), background, values.dtype)])
    )


def dense_loss(predictions: Float[Tensor, "B _ h w"], shown: Cells) -> Tensor:
    """Return the cells' cross entropy plus, on objects, the smooth L1 error of the box.

    `predictions` holds K class logits and 4 box values per cell.
    """
    entropy = F.cross_entropy(predictions[:, :-4], shown.shares, reduction="none")
    weight = 1 - (1 - BACKGROUND_WEIGHT) * shown.shares[:, BACKGROUND]
    off = F.smooth_l1_loss(predictions[:, -4:], shown.geometry, reduction="none", beta=0.25).mean(1)
    boxes = (off * shown.covered).sum() / shown.covered.sum().clamp(min=1)
    return (entropy * weight).sum() / weight.sum() + boxes


def name_loss(
    predictions: Sequence[Float[Tensor, "B _ _ _"]], names: Int64[np.ndarray, "B rows columns"]
) -> Tensor:
    """Average over levels the cross entropy of each tile's class, predicted by the mean of its cells."""
    truth = torch.from_numpy(names)
    pooled = [F.adaptive_avg_pool2d(level, names.shape[1:]) for level in predictions]
    losses = torch.stack([F.cross_entropy(level, truth) for level in pooled])
    weights = losses.new_tensor(LEVEL_WEIGHTS[-len(pooled) :])
    return (losses * weights).sum() / weights.sum()
