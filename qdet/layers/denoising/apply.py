"""Turn the objects of a batch and their noise into extra queries, and into what these should find.

DN-DETR (Li et al., CVPR 2022, https://arxiv.org/abs/2203.01305), section 4, and DINO (Zhang et al., ICLR
2023, https://arxiv.org/abs/2203.03605), section 3.3; where paper and authors' code differ, this is the code.

    B images   P extra queries   T objects of all images   R rows of noise   K classes
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qdet.boxes import xyxy_to_cxcywh
from qdet.data.denoising.config import DenoisingConfig
from qdet.layers.denoising.slots import lay_out_slots
from qdet.layers.precision import fp32_island
from qdet.types import Batch, ExtraQueries, Noise, Reconstruction, Targets


class Denoised(NamedTuple):
    """What training adds to a batch: both None without denoising."""

    queries: ExtraQueries | None
    """For the detector."""
    truth: Reconstruction | None
    """For the loss."""


def denoise_batch(config: DenoisingConfig, batch: Batch, classes: int) -> Denoised:
    """Make the extra queries of a training batch, on the device that it is on.

    Raises:
        ValueError: It was read without noise.
    """
    if config.kind == "none":
        return Denoised(None, None)
    if batch.noise is None:
        raise ValueError("this detector is trained with denoising, but its batch was read without noise")
    return denoise(config, batch.targets, batch.noise, batch.sizes_hw, classes)


def denoise(
    config: DenoisingConfig, targets: Targets, noise: Noise, sizes_hw: Int[Tensor, "B 2"], classes: int
) -> Denoised:
    """Make the extra queries of objects; nothing here waits for the device.

    Args:
        config: How much noise, and how queries are grouped.
        targets: The objects.
        noise: Their random numbers.
        sizes_hw: Height and width of each unpadded image.
        classes: Number of classes that a changed label is drawn from.
    """
    slots = lay_out_slots(config, targets.counts, noise)
    device = targets.labels.device
    grid = torch.from_numpy(slots.grid).to(device, non_blocking=True)
    row, thing, group, filled, negative, counted = grid.unbind(0)
    numbers, filled = noise.numbers[row], filled.bool()
    extent = sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1).to(targets.boxes_xyxy.dtype)
    boxes = targets.boxes_xyxy[thing] / extent
    noised = _noise_corners if config.kind == "contrastive" else _noise_center_and_size
    queries = ExtraQueries(
        labels=noise_labels(targets.labels[thing], numbers, config.label_noise, classes) * filled,
        boxes=noised(boxes, numbers, negative, config.box_noise).masked_fill(~filled.unsqueeze(-1), 0.5),
        groups=group,
        filled=filled,
    )
    found, objects = torch.from_numpy(slots.pairs).to(device, non_blocking=True)
    groups = torch.tensor(slots.groups).to(device, non_blocking=True)
    return Denoised(queries, Reconstruction(found, objects, counted.bool(), groups, slots.dropped))


@fp32_island("geometry")
def noise_labels(
    labels: Int[Tensor, "B P"], numbers: Float[Tensor, "B P 10"], rate: float, classes: int
) -> Int[Tensor, "B P"]:
    """Replace labels with probability `rate` by a class drawn from all, the true one included."""
    drawn = (numbers[..., 1] * classes).long().clamp(max=classes - 1)  # the product may be rounded up
    return torch.where(numbers[..., 0] < rate, drawn, labels)


@fp32_island("geometry")
def _noise_center_and_size(
    boxes_xyxy: Float[Tensor, "B P 4"],
    numbers: Float[Tensor, "B P 10"],
    negative: Int[Tensor, "B P"],
    scale: float,
) -> Float[Tensor, "B P 4"]:
    """DN-DETR's: move centres by up to half the box, and sizes by up to the box, both times `scale`."""
    boxes = xyxy_to_cxcywh(boxes_xyxy)
    reach = torch.cat((boxes[..., 2:] / 2, boxes[..., 2:]), dim=-1)
    return (boxes + (2 * numbers[..., 2:6].to(boxes.dtype) - 1) * reach * scale).clamp(0, 1)


@fp32_island("geometry")
def _noise_corners(
    boxes_xyxy: Float[Tensor, "B P 4"],
    numbers: Float[Tensor, "B P 10"],
    negative: Int[Tensor, "B P"],
    scale: float,
) -> Float[Tensor, "B P 4"]:
    """DINO's: move each corner coordinate by up to half the box, those of negatives by half to a whole one.

    The corners of a negative may change places, which gives it a negative size. Checkpoints were trained so.
    """
    half = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).repeat(1, 1, 2) / 2
    shift = numbers[..., 2:6].to(half.dtype) + negative.unsqueeze(-1)
    sign = torch.where(numbers[..., 6:] < 0.5, -1, 1)
    return xyxy_to_cxcywh((boxes_xyxy + sign * shift * half * scale).clamp(0, 1))
