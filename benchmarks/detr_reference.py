"""The data path of DETR's authors, taken literally: the reference of `benchmarks.loader`.

Loose image files, pycocotools, Pillow, float32 tensors, one padded tensor with a mask per batch, built by the
worker processes of a `DataLoader`. DETR (Carion et al., ECCV 2020): `datasets/coco.py`, `transforms.py` and
`util/misc.py` of the authors' code, for boxes; torchvision's functions are inlined.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from qdet.data.augment import AugmentConfig
from qdet.data.plan.views import HW

Sample = tuple[Tensor, dict[str, Tensor]]


class DetrDataset(Dataset[Sample]):
    """Images of a COCO folder through DETR's training transforms, one at a time."""

    def __init__(self, images: Path, annotations: Path, augment: AugmentConfig) -> None:
        from pycocotools.coco import COCO

        self.images, self.augment, self.coco = images, augment, COCO(str(annotations))
        self.ids = sorted(self.coco.imgs)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> Sample:
        image_id = self.ids[number]
        image = Image.open(self.images / self.coco.loadImgs(image_id)[0]["file_name"]).convert("RGB")
        target = build_targets(self.coco.loadAnns(self.coco.getAnnIds(image_id)), image_id, image.size)
        image, target = transform(image, target, self.augment)
        h, w = image.shape[-2:]
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        boxes = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)
        return image, target | {"boxes": boxes / torch.tensor([w, h, w, h]), "size": torch.tensor([h, w])}


def build_targets(
    annotations: Sequence[Mapping[str, Any]], image_id: int, size_wh: tuple[int, int]
) -> dict[str, Tensor]:
    """`ConvertCocoPolysToMask` without the polygons."""
    w, h = size_wh
    single = [a for a in annotations if not a.get("iscrowd")]
    boxes = torch.as_tensor([a["bbox"] for a in single], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(min=0, max=w)
    boxes[:, 1::2].clamp_(min=0, max=h)
    keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    return {
        "boxes": boxes[keep],
        "labels": torch.tensor([a["category_id"] for a in single], dtype=torch.int64)[keep],
        "area": torch.tensor([a["area"] for a in single], dtype=torch.float32)[keep],
        "iscrowd": torch.zeros(int(keep.sum()), dtype=torch.int64),
        "image_id": torch.tensor([image_id]),
        "orig_size": torch.tensor([h, w]),
    }


def transform(
    image: Image.Image, target: dict[str, Tensor], augment: AugmentConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """`make_coco_transforms("train")`: flip, resize or resize, crop and resize, to a normalised tensor."""
    if random.random() < augment.flip:
        image, target = _flip(image, target)
    if augment.crop and random.random() < 0.5:
        image, target = _resize(image, target, random.choice(augment.crop_sizes), None)
        image, target = _crop(image, target, augment.crop_range)
    image, target = _resize(image, target, random.choice(augment.sizes), augment.max_size)
    # torchvision's to_tensor and normalize
    pixels = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous().float().div(255)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
    return pixels.sub_(mean).div_(std), target


def collate(samples: list[Sample]) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """`nested_tensor_from_tensor_list`: pad with zeros to the largest; the mask is True on padding."""
    images = [image for image, _ in samples]
    h, w = (max(image.shape[side] for image in images) for side in (1, 2))
    padded = torch.zeros((len(images), 3, h, w))
    mask = torch.ones((len(images), h, w), dtype=torch.bool)
    for image, place, covered in zip(images, padded, mask, strict=True):
        place[:, : image.shape[1], : image.shape[2]].copy_(image)
        covered[: image.shape[1], : image.shape[2]] = False
    return padded, mask, [target for _, target in samples]


def build_loader(dataset: DetrDataset, *, batch_size: int, images: int, workers: int) -> DataLoader[Any]:
    """Build the `DataLoader` of `main.py`, over `images` samples."""
    sampler = RandomSampler(dataset, replacement=images > len(dataset), num_samples=images)
    return DataLoader(
        dataset, batch_size, sampler=sampler, collate_fn=collate, num_workers=workers, drop_last=True
    )


def _resize(
    image: Image.Image, target: dict[str, Tensor], size: int, longest: int | None
) -> tuple[Image.Image, dict[str, Tensor]]:
    h, w = _size_with_aspect_ratio(image.size, size, longest)
    x, y = w / image.width, h / image.height
    scaled = target | {
        "boxes": target["boxes"] * torch.tensor([x, y, x, y]),
        "area": target["area"] * (x * y),
    }
    return image.resize((w, h), Image.Resampling.BILINEAR), scaled


def _size_with_aspect_ratio(size_wh: tuple[int, int], size: int, longest: int | None) -> HW:
    w, h = size_wh
    if longest is not None:
        least, most = float(min(w, h)), float(max(w, h))
        if most / least * size > longest:
            size = round(longest * least / most)
    if min(w, h) == size:
        return h, w
    return (int(size * h / w), size) if w < h else (size, int(size * w / h))


def _crop(
    image: Image.Image, target: dict[str, Tensor], sides: tuple[int, int]
) -> tuple[Image.Image, dict[str, Tensor]]:
    """`RandomSizeCrop`."""
    w = random.randint(min(sides[0], image.width), min(image.width, sides[1]))
    h = random.randint(min(sides[0], image.height), min(image.height, sides[1]))
    top, left = random.randint(0, image.height - h), random.randint(0, image.width - w)
    corners = (target["boxes"] - torch.tensor([left, top, left, top])).reshape(-1, 2, 2)
    corners = torch.min(corners, torch.tensor([w, h], dtype=torch.float32)).clamp(min=0)
    keep = torch.all(corners[:, 1] > corners[:, 0], dim=1)
    area = (corners[:, 1] - corners[:, 0]).prod(dim=1)
    kept = target | {
        "boxes": corners.reshape(-1, 4)[keep],
        "area": area[keep],
        "labels": target["labels"][keep],
        "iscrowd": target["iscrowd"][keep],
    }
    return image.crop((left, top, left + w, top + h)), kept


def _flip(image: Image.Image, target: dict[str, Tensor]) -> tuple[Image.Image, dict[str, Tensor]]:
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    mirrored = torch.stack([image.width - x2, y1, image.width - x1, y2], 1)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), target | {"boxes": mirrored}
