"""What the cells of a feature map show: targets and losses of the backbone's pre-training.

cell   a stride x stride square of pixels; its class is that of its pixels, by their shares
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
BACKGROUND_WEIGHT = 0.25  # of a cell without an object in the cross entropy; most cells have none
LEVEL_WEIGHTS = (0.05, 0.1, 0.4, 1.0)  # of naming; fine levels see too little of a shape to learn much
GEOMETRY_SCALE = 32.0  # pixels; box centres and sides are learned in these units


@dataclass(frozen=True)
class Cells:
    """What a batch's cells show."""

    shares: Float[Tensor, "B K h w"]
    """Share of each class, background last, among the cell's pixels."""
    geometry: Float[Tensor, "B 4 h w"]
    """Of the box at the cell's middle: its centre seen from there, and log2 of its sides."""
    covered: Float[Tensor, "B h w"]
    """1 where an object covers the middle of the cell, else 0."""


def cells(scenes: Sequence[Scene], stride: int) -> Cells:
    """Say what each cell shows."""
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
    """Append what stands for background, so that owner -1 finds it."""
    return torch.from_numpy(
        np.concatenate([values, np.full((1, *values.shape[1:]), background, values.dtype)])
    )


def dense_loss(said: Float[Tensor, "B _ h w"], shown: Cells) -> Tensor:
    """Add the cells' cross entropy and, where there is an object, the error of its box.

    `said` holds K class logits and 4 box numbers per cell.
    """
    entropy = F.cross_entropy(said[:, :-4], shown.shares, reduction="none")
    weight = 1 - (1 - BACKGROUND_WEIGHT) * shown.shares[:, BACKGROUND]
    off = F.smooth_l1_loss(said[:, -4:], shown.geometry, reduction="none", beta=0.25).mean(1)
    boxes = (off * shown.covered).sum() / shown.covered.sum().clamp(min=1)
    return (entropy * weight).sum() / weight.sum() + boxes


def name_loss(said: Sequence[Float[Tensor, "B _ _ _"]], names: Int64[np.ndarray, "B rows columns"]) -> Tensor:
    """Average over levels the cross entropy of each tile's class, said by the mean of the tile's cells."""
    truth = torch.from_numpy(names)
    pooled = [F.adaptive_avg_pool2d(level, names.shape[1:]) for level in said]
    losses = torch.stack([F.cross_entropy(level, truth) for level in pooled])
    weights = losses.new_tensor(LEVEL_WEIGHTS[-len(pooled) :])
    return (losses * weights).sum() / weights.sum()
