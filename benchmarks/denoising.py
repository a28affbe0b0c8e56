"""What extra queries cost in a training step, and how many there are on real images.

    python -m benchmarks.denoising           # the numbers in docs/denoising.md

Steps are of one image with seven objects: forward pass, loss and backward pass, in processor time of one
thread, with and without extra queries in turns. Counts are of the objects in QDET_COCO_ROOT's images, drawn
into batches at random; no image is read.
"""

import json
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from jaxtyping import Int64
from torch import Tensor

from qdet.data.denoising.config import DINO_DENOISING, DN_DETR_DENOISING, DenoisingConfig
from qdet.data.denoising.draw import NoiseSource, pack
from qdet.detectors.detector import DenoisingDetector
from qdet.layers.denoising.apply import Denoised, denoise
from qdet.layers.denoising.slots import lay_out_slots
from qdet.losses import SetLoss
from qdet.types import Targets
from qdet.zoo import load_job

COCO = Path(os.environ.get("QDET_COCO_ROOT", "../shared/coco128"))
OBJECTS = 7
"""About as many as COCO's images have."""
CLASSES = 80


def main(
    *,
    coco: Path = COCO,
    jobs: tuple[str, ...] = ("dn_detr_r50", "dino_r50"),
    rounds: int = 5,
    size: tuple[int, int] = (480, 640),
) -> None:
    """Print both tables.

    Args:
        coco: COCO dataset in the standard layout.
        jobs: Jobs whose steps are measured.
        rounds: Steps with and without extra queries of each.
        size: Height and width of the image.
    """
    torch.set_num_threads(1)
    print("| job | own queries | extra queries | seconds without | with | ratio |")
    print("| --- | --: | --: | --: | --: | --: |")
    for name in jobs:
        print(compare_steps(name, rounds, torch.tensor([size])), flush=True)
    print("\n| settings | images of a pass | groups | extra queries of an image | of them empty |")
    print("| --- | --: | --: | --: | --: |")
    counts = count_objects(coco)
    for name, config in (("DINO", DINO_DENOISING), ("DN-DETR", DN_DETR_DENOISING)):
        for images, grouping in ((16, "image"), (1, "batch"), (2, "batch"), (16, "batch")):
            print(describe_slots(name, replace(config, grouping=grouping), counts, images), flush=True)


def compare_steps(name: str, rounds: int, size_hw: Int64[Tensor, "1 2"]) -> str:
    """Measure a job's detector and return a line of the table."""
    job = load_job(name)
    detector, criterion = job.detector.build(CLASSES).train(), job.loss.build(CLASSES)
    assert isinstance(detector, DenoisingDetector)
    torch.manual_seed(0)
    corners = 300 * torch.rand(OBJECTS, 2)
    boxes = torch.cat((corners, corners + 20 + 100 * torch.rand(OBJECTS, 2)), dim=1)
    targets = Targets(boxes, torch.randint(0, CLASSES, (OBJECTS,)), (OBJECTS,))
    noise = pack([NoiseSource(config=detector.denoising, seed=0, epoch=0).draw(0, OBJECTS)])
    extra = denoise(detector.denoising, targets, noise, size_hw, CLASSES)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):  # the first one warms up
        for added in seconds:
            parts = extra if added else Denoised(None, None)
            seconds[added].append(time_step(detector, criterion, targets, size_hw, parts))
    without, with_them = (statistics.median(s[1:]) for s in (seconds[False], seconds[True]))
    queries = job.detector.queries, extra.queries.labels.shape[1] if extra.queries else 0
    numbers = f"{queries[0]} | {queries[1]} | {without:.2f} | {with_them:.2f} | {with_them / without:.3f}"
    return f"| `{name}` | {numbers} |"


def time_step(
    detector: DenoisingDetector,
    criterion: SetLoss,
    targets: Targets,
    size_hw: Int64[Tensor, "1 2"],
    parts: Denoised,
) -> float:
    """Return the processor time of one step."""
    image = torch.randint(0, 256, (1, 3, *size_hw[0].tolist()), dtype=torch.uint8)
    detector.zero_grad()
    began = time.process_time()
    stages = detector(image, size_hw, parts.queries)
    criterion(stages, targets, size_hw, normalizer=OBJECTS, truth=parts.truth).total.backward()
    return time.process_time() - began


def count_objects(coco: Path) -> list[int]:
    """Return the objects of every training image, without crowds."""
    found = json.loads(next((coco / "annotations").glob("instances_train*.json")).read_text())
    counts = Counter(a["image_id"] for a in found["annotations"] if not a.get("iscrowd"))
    return [counts[image["id"]] for image in found["images"]]


def describe_slots(name: str, config: DenoisingConfig, counts: list[int], images: int) -> str:
    """Return a line of the table: means over a thousand random batches."""
    chance = random.Random(0)
    groups, slots, empty = [], 0, 0
    for _ in range(1000):
        batch = chance.sample(counts, images)
        source = NoiseSource(config=config, seed=0, epoch=0)
        found = lay_out_slots(config, batch, pack([source.draw(i, n) for i, n in enumerate(batch)]))
        groups += found.groups
        visible = found.grid[2] >= 0
        slots += int(visible.sum())
        empty += int((visible & (found.grid[3] == 0)).sum())
    each = slots / 1000 / images
    share = empty / max(slots, 1)
    mean = statistics.mean(groups)
    return f"| {name}, by {config.grouping} | {images} | {mean:.1f} | {each:.0f} | {share:.0%} |"


if __name__ == "__main__":
    tyro.cli(main)
