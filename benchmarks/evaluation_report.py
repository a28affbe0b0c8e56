"""How long the analysis of a model takes on a dataset of the size of COCO val, without the model.

    python -m benchmarks.evaluation_report       # 5,000 images, 100 detections each, 80 classes

Objects and detections are random: sizes and numbers are about those of COCO, and every object has up to four
detections near it, with scores that fall with the distance.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro

from qdet.evaluation import DetectionRows, evaluate, merge
from qdet.evaluation.findings import Candidate, analyse
from qdet.evaluation.html.page import page

SIDE = 640


def main(*, images: int = 5000, detections: int = 100, classes: int = 80, seed: int = 0) -> None:
    """Time COCO's numbers alone, one model, and the comparison of two.

    Args:
        images: Number of images.
        detections: Per image.
        classes: Number of classes.
        seed: Of the random numbers.
    """
    truth, rows = make(images, detections, classes, seed, noise=0.08)
    _, others = make(images, detections, classes, seed, noise=0.11)
    cpu = [time.process_time()]
    evaluate(truth, rows)
    cpu.append(time.process_time())
    analyse(truth, Candidate("first", rows))
    cpu.append(time.process_time())
    findings = analyse(truth, Candidate("first", rows), other=Candidate("second", others))
    cpu.append(time.process_time())
    size = len(page(findings, {}).encode()) / 1e6
    cpu.append(time.process_time())
    names = ("COCO's numbers", "all findings", "all findings of two models", f"page of {size:.1f} MB")
    for name, begin, end in zip(names, cpu[:-1], cpu[1:], strict=True):
        print(f"{name:<30}{end - begin:8.1f} s of CPU")


def make(
    images: int, detections: int, classes: int, seed: int, *, noise: float
) -> tuple[dict[str, Any], DetectionRows]:
    """Make random ground truth, which depends on the seed alone, and detections off by `noise` of a side."""
    scenes, shaken = np.random.default_rng(seed), np.random.default_rng([seed, round(1000 * noise)])
    annotations: list[dict[str, Any]] = []
    parts = []
    for image in range(1, images + 1):
        objects = _objects(scenes, image, classes, first=len(annotations) + 1)
        annotations += objects
        parts.append(_detections(shaken, image, objects, detections, classes, noise))
    truth = {
        "images": [{"id": image} for image in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, classes + 1)],
    }
    return truth, merge(parts)


def _objects(rng: np.random.Generator, image: int, classes: int, *, first: int) -> list[dict[str, Any]]:
    """Make about seven objects of at most three classes."""
    present = rng.integers(1, classes + 1, 3)
    made = []
    for number in range(int(rng.poisson(7.3))):
        size = np.exp(rng.normal(4, 0.9, 2)).clip(4, 400)
        box = np.concatenate((rng.uniform(0, 1, 2) * (SIDE - size), size))
        made.append(
            {
                "id": first + number,
                "image_id": image,
                "category_id": int(rng.choice(present)),
                "bbox": box.tolist(),
                "area": float(0.7 * size.prod()),
                "iscrowd": int(rng.random() < 0.01),
            }
        )
    return made


def _detections(
    rng: np.random.Generator,
    image: int,
    objects: Sequence[dict[str, Any]],
    count: int,
    classes: int,
    noise: float,
) -> DetectionRows:
    boxes = np.concatenate((rng.uniform(0, 500, (count, 2)), rng.uniform(5, 200, (count, 2))), axis=1)
    labels, scores = rng.integers(1, classes + 1, count), rng.beta(1, 12, count)
    near = [(one, k) for one in objects for k in range(int(rng.integers(0, 5)))][:count]
    for i, (one, k) in enumerate(near):
        box = np.array(one["bbox"])
        boxes[i] = box + rng.normal(0, noise * (1 + k), 4) * np.tile(box[2:], 2)
        scores[i] = rng.beta(5 - k, 2 + k)
        if rng.random() < 0.8:
            labels[i] = one["category_id"]
    boxes[:, 2:] = boxes[:, 2:].clip(2)
    ids = np.full(count, image, np.int64)
    return DetectionRows(ids, labels.astype(np.int64), boxes, scores, ids[:1])


if __name__ == "__main__":
    tyro.cli(main)
