"""The engines that compute COCO's numbers, on random detections, in turn.

python -m benchmarks.evaluate --images 5000
"""

import time
from typing import get_args

import numpy as np
import tyro

from benchmarks.machine import describe_machine
from qdet.evaluation.engines import Boxes, Engine, measure

CATEGORIES, OBJECTS = 80, 7


def main(*, images: int = 1000, detections: int = 100, rounds: int = 1) -> None:
    """Print seconds of each engine and the largest difference of its numbers from pycocotools'.

    Args:
        images: Images of the set.
        detections: Detections in each.
        rounds: Times that all engines run; the fastest counts.
    """
    truth, found = make_boxes(images, detections)
    print(describe_machine())
    print("| engine | wall, s | CPU, s | largest difference |\n| --- | --: | --: | --: |")
    reference = np.zeros(0)
    for engine in reversed(get_args(Engine)[1:]):
        stats, taken = np.zeros(0), []
        for _ in range(rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            stats = measure(truth, found, images=images, categories=CATEGORIES, engine=engine).stats
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
        reference = reference if reference.size else stats
        wall, cpu = min(taken)
        print(f"| {engine} | {wall:.2f} | {cpu:.2f} | {abs(stats - reference).max():.1e} |", flush=True)


def make_boxes(images: int, detections: int) -> tuple[Boxes, Boxes]:
    """Return random objects, and detections of which a tenth is near one."""
    rng = np.random.default_rng(0)
    count = images * OBJECTS
    truth = _boxes(rng, np.repeat(np.arange(images), OBJECTS), rng.integers(0, CATEGORIES, count))
    owner = np.repeat(np.arange(images), detections)
    found = _boxes(rng, owner, rng.integers(0, CATEGORIES, len(owner)))
    near = rng.permutation(len(owner))[: len(owner) // 10]
    object_of = owner[near] * OBJECTS + rng.integers(0, OBJECTS, len(near))
    found.boxes_xywh[near] = truth.boxes_xywh[object_of] * rng.uniform(0.85, 1.15, (len(near), 4))
    found.categories[near] = truth.categories[object_of]
    scores = rng.random(len(owner))
    order = np.lexsort((-scores, owner))
    area = found.boxes_xywh[:, 2] * found.boxes_xywh[:, 3]
    columns = (found.images, found.categories, found.boxes_xywh, area, found.crowd, scores)
    return truth, Boxes(*(column[order] for column in columns))


def _boxes(rng: np.random.Generator, images: np.ndarray, categories: np.ndarray) -> Boxes:
    corners, sides = rng.uniform(0, 500, (len(images), 2)), rng.uniform(2, 5.5, (len(images), 2))
    boxes = np.concatenate((corners, np.exp(sides)), axis=1)
    return Boxes(images, categories, boxes, boxes[:, 2] * boxes[:, 3], np.zeros(len(images), np.int64))


if __name__ == "__main__":
    tyro.cli(main)
