"""Decode images of a COCO folder once into a file that `python -m benchmarks.gpu --images` reads.

python -m benchmarks.gpu.decoded --coco data/coco --split val2017 --out images.npz
"""

import json
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageOps

SIDE = 640
"""Longer side in pixels, and both sides of the padded images."""


def main(*, coco: Path, split: str, out: Path, count: int = 128) -> None:
    """Write the first images that have objects, resized and padded, with their boxes.

    Args:
        coco: Folder with `annotations/instances_SPLIT.json` and `SPLIT/`.
        split: Such as `val2017`.
        out: The .npz file.
        count: Images.
    """
    held = json.loads((coco / "annotations" / f"instances_{split}.json").read_text())
    number = {c["id"]: i for i, c in enumerate(sorted(held["categories"], key=lambda c: c["id"]))}
    objects: dict[int, list[dict]] = {}
    for one in held["annotations"]:
        if not one.get("iscrowd") and min(one["bbox"][2:]) > 0:
            objects.setdefault(one["image_id"], []).append(one)
    images, sizes, boxes, labels, ends = [], [], [], [], []
    for entry in [e for e in held["images"] if e["id"] in objects][:count]:
        with Image.open(coco / split / entry["file_name"]) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        scale = SIDE / max(upright.size)
        width, height = (min(SIDE, round(scale * side)) for side in upright.size)
        padded = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        padded[:height, :width] = np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))
        images.append(padded)
        sizes.append((height, width))
        for one in objects[entry["id"]]:
            x, y, w, h = (scale * v for v in one["bbox"])
            boxes.append((x, y, x + w, y + h))
            labels.append(number[one["category_id"]])
        ends.append(len(boxes))
    np.savez_compressed(out, images=images, sizes=sizes, boxes=boxes, labels=labels, ends=ends)
    print(f"{len(images)} images with {len(boxes)} objects in {out}")


if __name__ == "__main__":
    tyro.cli(main)
