"""Padding of training batches and imbalance of ranks, with and without batching by size.

    python -m benchmarks.padding             # sizes of QDET_COCO_ROOT's images; the numbers in docs/data.md

118,287 sizes, as many as COCO's training images, are drawn from those in the annotation files; no image is
read. DETR's augmentation, batches padded to multiples of 32.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Int64

from qdet.data.augment import AugmentConfig
from qdet.data.plan.epoch import EpochPlan, Plan

COCO = Path(os.environ.get("QDET_COCO_ROOT", "../shared/coco128"))
DETR = AugmentConfig(crop=True)
BATCHES = ((2, 16), (4, 16), (8, 64), (16, 16))
"""Images per rank and per global batch."""


def main(
    *,
    coco: Path = COCO,
    images: int = 118_287,
    epochs: int = 3,
) -> None:
    """Plan epochs for every batch size and print a table.

    Args:
        coco: COCO dataset in the standard layout; if missing, COCO-like sizes are made up.
        images: Images per epoch.
        epochs: Epochs to average.
    """
    sizes, where = draw_sizes(coco, images)
    print(f"{images:,} images with sizes {where}, {epochs} epochs; padded over real pixels,")
    print("and in parentheses the pixels of the fullest rank over the mean of the ranks\n")
    print("| images per rank, global | at random | by size | by size, ranks pad alone | seconds to plan |")
    print("| --- | --: | --: | --: | --: |")
    for each, batch in BATCHES:
        columns: list[str] = []
        for by_size, alone in ((False, True), (True, False), (True, True)):
            began = time.process_time()
            plans = [
                EpochPlan(sizes, DETR, seed=0, epoch=e, global_batch=batch, by_size=by_size).whole()
                for e in range(epochs)
            ]
            seconds = (time.process_time() - began) / epochs
            waste, uneven = np.mean([measure_padding(plan, each, alone=alone) for plan in plans], axis=0)
            columns.append(f"{waste:.3f} ({uneven:.3f})")
        print(f"| {each}, {batch} | {' | '.join(columns)} | {seconds:.2f} |", flush=True)


def measure_padding(plan: Plan, each: int, *, alone: bool) -> tuple[float, float]:
    """Return padded over real pixels, and the fullest rank's padded pixels over the mean rank's.

    Args:
        plan: Plan of an epoch.
        each: Images per rank.
        alone: Whether every rank pads to its own largest image, instead of the global batch's.
    """
    final = plan.views.final_hw[plan.rows]  # [S, G, 2]
    ranks = final.reshape(len(final), -1, each, 2)
    padded = np.repeat(plan.padded_hw[:, None], ranks.shape[1], axis=1)
    if alone:
        padded = -(-ranks.max(axis=2) // DETR.pad_multiple) * DETR.pad_multiple
    pixels = padded.prod(axis=-1) * each  # [S, ranks]
    uneven = pixels.max(axis=1).sum() / pixels.mean(axis=1).sum()
    return float(pixels.sum() / final.prod(axis=-1).sum()), float(uneven)


def draw_sizes(coco: Path, images: int) -> tuple[Int64[np.ndarray, "n 2"], str]:
    """Draw heights and widths (pixels) for `images` images from a dataset; return them and their origin."""
    chance = np.random.default_rng(0)
    files = sorted((coco / "annotations").glob("instances_*.json"))
    listed = [image for file in files for image in json.loads(file.read_text())["images"]]
    if listed:
        known = np.array([(image["height"], image["width"]) for image in listed], dtype=np.int64)
        return chance.choice(known, images), f"of the {len(known)} images in {coco.name}"
    sizes = np.stack([chance.integers(333, 481, images), np.full(images, 640)], axis=1)
    upright = chance.random((images, 1)) < 0.25
    sizes = np.where(upright, sizes[:, ::-1], sizes)
    return sizes.astype(np.int64), "made up: 640 pixels long and 333 to 480 short"


if __name__ == "__main__":
    tyro.cli(main)
