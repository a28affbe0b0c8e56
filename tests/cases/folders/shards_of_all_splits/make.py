"""Write a small COCO dataset."""

import json
from pathlib import Path

from PIL import Image

NAMES = ["a"]
images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (1, 2)]
content = {
    "images": images,
    "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)],
    "annotations": [
        {"id": i, "image_id": 1, "category_id": i, "bbox": [2, 3, 20, 15], "area": 300, "iscrowd": 0}
        for i in range(1, len(NAMES) + 1)
    ],
}
Path("images").mkdir()
for image in images:
    Image.new("RGB", (40, 30)).save(Path("images") / image["file_name"])
Path("ann.json").write_text(json.dumps(content))
