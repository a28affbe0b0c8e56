"""Repeat a COCO dataset under new names, so that a small sample suffices for benchmarks."""

import json
from pathlib import Path
from typing import Any

ID_STEP = 10**7
"""Added to image ids from one copy to the next."""


def repeat_dataset(coco: Path, split: str, times: int, out: Path) -> Path:
    """Write `out` in COCO's layout with `times` links to every image of `coco`; return `out`."""
    content = json.loads((coco / "annotations" / f"instances_{split}.json").read_text())
    (out / split).mkdir(parents=True)
    (out / "annotations").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for copy in range(times):
        for image in content["images"]:
            number = image["id"] + copy * ID_STEP
            name = f"{number:012d}.jpg"
            (out / split / name).symlink_to((coco / split / image["file_name"]).resolve())
            images.append(image | {"id": number, "file_name": name})
        for annotation in content["annotations"]:
            number = len(annotations) + 1
            image_id = annotation["image_id"] + copy * ID_STEP
            annotations.append(annotation | {"id": number, "image_id": image_id})
    repeated = content | {"images": images, "annotations": annotations}
    (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(repeated))
    return out
