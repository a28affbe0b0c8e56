"""The demo's dataset: rendered scenes written as a COCO-format folder.

    OUT/train/000001.jpg ...   OUT/annotations/instances_train.json
    OUT/val/000001.jpg ...     OUT/annotations/instances_val.json
    OUT/synthetic.json         the settings, and whether the folder is complete

python -m data_prep.synthetic --out data/demo/coco
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from data_prep.command_line import run_command
from data_prep.output import write_local
from data_prep.rendering.shapes import CLASSES, Scene, render
from qdet.errors import ConfigError, DataError
from qdet.storage.parsing import parse_json

VERSION = 1  # raise when the same settings give other images
JPEG_QUALITY = 92
FULL_COLOUR = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)  # textures are fine
Split = Literal["train", "val"]


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Number, size and seed of the images."""

    out: Path = Path("data/demo/coco")
    """Folder to write."""
    train: int = 2000
    """Training images."""
    val: int = 250
    """Validation images, from a stream of their own."""
    size: int = 128
    """Side of the square images in pixels."""
    seed: int = 0
    """Seed of all images."""
    workers: int = 2
    """Rendering processes; the images do not depend on their number."""

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        for name, least in (("train", 1), ("val", 1), ("size", 64), ("seed", 0), ("workers", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} must be at least {least}, got {getattr(self, name)}")


def main(config: SyntheticConfig) -> None:
    """Write the dataset unless it exists."""
    if prepare(config):
        print(f"{config.out}: rendered {config.train} train and {config.val} val images of {config.size} px")
    else:
        print(f"{config.out}: already rendered")


def prepare(config: SyntheticConfig) -> bool:
    """Render the dataset; return False if a complete folder with these settings exists.

    Raises:
        DataError: The folder holds other files or other settings, or cannot be written.
    """
    marker = config.out / "synthetic.json"
    settings = _settings(config)
    if _is_finished(marker, settings):
        return False
    config.out.mkdir(parents=True, exist_ok=True)
    write_local(marker, _as_json({"settings": settings, "complete": False}))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.workers, mp_context=context, initializer=_use_one_thread) as pool:
        _write_split(config, "train", config.train, pool)
        _write_split(config, "val", config.val, pool)
    write_local(marker, _as_json({"settings": settings, "complete": True}))
    return True


def _settings(config: SyntheticConfig) -> dict[str, int]:
    asked = {k: v for k, v in asdict(config).items() if k not in ("out", "workers")}
    return asked | {"version": VERSION, "jpeg_quality": JPEG_QUALITY}


def _is_finished(marker: Path, settings: dict[str, int]) -> bool:
    """Whether the folder is complete; raise DataError if it holds anything else."""
    folder = marker.parent
    if not marker.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(
                f"{folder} holds files that were not rendered here; move them, or render into another folder"
            )
        return False
    try:
        found = parse_json(marker.read_text())
        present, complete = dict(found["settings"]), bool(found["complete"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{marker} cannot be read ({error}); remove {folder} and render it again") from error
    different = [k for k in settings.keys() | present.keys() if settings.get(k) != present.get(k)]
    if different:
        listed = ", ".join(f"{k} {present.get(k)} instead of {settings.get(k)}" for k in sorted(different))
        raise DataError(f"{folder} was rendered with {listed}; remove it, or render into another folder")
    return complete


def _write_split(config: SyntheticConfig, split: Split, count: int, pool: ProcessPoolExecutor) -> None:
    folder = config.out / split
    folder.mkdir(exist_ok=True)
    one = partial(_write_image, config.seed, split, config.size)
    images, annotations = [], []
    chunk = max(1, min(64, count // config.workers))
    for image, objects in pool.map(one, repeat(folder), range(count), chunksize=chunk):
        images.append(image)
        for found in objects:
            annotations.append({"id": len(annotations) + 1, **found})
    whole = {
        "info": {"description": f"Rendered shapes, {split}", "version": str(VERSION)},
        "licenses": [],
        "categories": [{"id": i + 1, "name": n, "supercategory": "shape"} for i, n in enumerate(CLASSES)],
        "images": images,
        "annotations": annotations,
    }
    (config.out / "annotations").mkdir(exist_ok=True)
    write_local(config.out / "annotations" / f"instances_{split}.json", _as_json(whole))


def _write_image(
    seed: int, split: Split, size: int, folder: Path, index: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Render and write one image; return its COCO entry and those of its objects, still without ids."""
    scene = render(seed, split, index, size)
    name, image_id = f"{index + 1:06d}.jpg", index + 1
    encoded = cv2.imencode(
        ".jpg", scene.image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *FULL_COLOUR)
    )[1]
    try:
        (folder / name).write_bytes(encoded.tobytes())  # a torn file is rendered again: the marker comes last
    except OSError as error:
        raise DataError(f"cannot write {folder / name}: {error.strerror}") from error
    return {"id": image_id, "file_name": name, "width": size, "height": size}, _list_objects(scene, image_id)


def _list_objects(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    areas = np.bincount(scene.owners.ravel() + 1, minlength=len(scene.labels) + 1)[1:]
    objects = []
    for box, label, area in zip(
        scene.boxes_xyxy.tolist(), scene.labels.tolist(), areas.tolist(), strict=True
    ):
        left, top, right, bottom = box
        bbox = [left, top, right - left, bottom - top]
        objects.append(
            {"image_id": image_id, "category_id": label + 1, "bbox": bbox, "area": area, "iscrowd": 0}
        )
    return objects


def _use_one_thread() -> None:
    cv2.setNumThreads(1)


def _as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


if __name__ == "__main__":
    run_command(SyntheticConfig, main, about="Render the demo's dataset as a COCO-format folder.")
