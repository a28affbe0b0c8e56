"""The smallest COCO dataset that a case needs."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def write(names: Sequence[str]) -> None:
    """Write two images, one with a box of every class, and their annotations into this folder."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (1, 2)]
    content = {
        "images": images,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": [2, 3, 20, 15], "area": 300, "iscrowd": 0}
            for i in range(1, len(names) + 1)
        ],
    }
    Path("images").mkdir()
    for image in images:
        Image.new("RGB", (40, 30)).save(Path("images") / image["file_name"])
    Path("ann.json").write_text(json.dumps(content))
