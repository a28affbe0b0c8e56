"""Costs and assignment of a training step, against the padded definition, for counts of objects as they come.

python -m benchmarks.matching
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import tyro
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.machine import describe_machine
from qdet.boxes import generalized_iou
from qdet.losses import SetLoss, SetLossConfig
from qdet.types import Predictions, Targets

COUNTS = {
    "16 images, as in COCO": (3, 7, 1, 15, 2, 22, 40, 5, 4, 0, 9, 1, 6, 12, 3, 8),
    "16 crowded images": (100, 63, 80, 35, 91, 50, 70, 42, 66, 58, 77, 90, 33, 61, 85, 49),
    "16 images of 7": (7,) * 16,
    "2 images of 60": (60, 60),
    "2 images of 5": (3, 7),
    "1 object": (1,),
}
STAGES, QUERIES, CLASSES = 6, 300, 80
Task = Callable[[], object]


def main(*, repeats: int = 9, queries: int = QUERIES, out: str = "") -> None:
    """Print CPU time of both, in turn, and their ratio.

    Args:
        repeats: Rounds of each pair, after one for warm-up.
        queries: Queries of an image.
        out: A file for the numbers, as JSON.
    """
    torch.set_num_threads(1)
    print("| counts | objects | padded, ms | by object, ms | ratio |\n| --- | --: | --: | --: | --: |")
    found = []
    for name, counts in COUNTS.items():
        loss, *batch = make_batch(counts, queries)
        pairs = measure((partial(match_padded, loss.config, *batch), partial(loss.match, *batch)), repeats)
        before, after = (1e3 * statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        ratio = statistics.median(a / b for a, b in pairs)
        found.append(
            {"counts": counts, "padded_ms": before, "by_object_ms": after, "ratio": ratio, "all": pairs}
        )
        print(f"| {name} | {sum(counts)} | {before:.1f} | {after:.1f} | {ratio:.2f} |", flush=True)
    if out:
        content = {"machine": describe_machine(), "queries": queries, "found": found}
        Path(out).write_text(json.dumps(content))


def measure(tasks: Sequence[Task], repeats: int) -> list[tuple[float, ...]]:
    """Run `tasks` in turn; return the CPU seconds of each, round by round, without the first."""
    rounds = []
    for _ in range(1 + repeats):
        taken = []
        for task in tasks:
            begin = time.process_time()
            task()
            taken.append(time.process_time() - begin)
        rounds.append(tuple(taken))
    return rounds[1:]


def make_batch(counts: Sequence[int], queries: int) -> tuple[SetLoss, list[Predictions], Targets, Tensor]:
    """Return a loss, random predictions of all stages, objects and image sizes."""
    torch.manual_seed(0)
    images, objects = len(counts), sum(counts)
    stages = [
        Predictions(torch.randn(images, queries, CLASSES) - 4, _boxes(images, queries)) for _ in range(STAGES)
    ]
    targets = Targets(_boxes(objects), torch.randint(0, CLASSES, (objects,)), tuple(counts))
    return SetLossConfig().build(CLASSES), stages, targets, torch.full((images, 2), 800)


def _boxes(*shape: int) -> Tensor:
    corners = 600 * torch.rand(*shape, 2)
    return torch.cat((corners, corners + 10 + 200 * torch.rand(*shape, 2)), dim=-1)


def match_padded(
    c: SetLossConfig, stages: Sequence[Predictions], targets: Targets, sizes: Tensor
) -> list[list]:
    """Match all stages and images with costs padded to the fullest image, as definitions read."""
    logits, boxes = (torch.stack([getattr(p, name) for p in stages]) for name in ("logits", "boxes_xyxy"))
    fullest, per_image = max(targets.counts), targets.per_image()
    wanted = torch.stack([_pad(own, fullest) for own, _ in per_image]).expand(len(stages), -1, -1, -1)
    labels = torch.stack([_pad(own, fullest) for _, own in per_image])[None, :, None]
    labels = labels.expand(len(stages), -1, logits.shape[2], -1)
    p = logits.gather(-1, labels).sigmoid()
    positive = -c.alpha * (1 - p) ** c.gamma * torch.log(p + c.log_eps)
    negative = -(1 - c.alpha) * p**c.gamma * torch.log(1 - p + c.log_eps)
    extent = sizes.flip(-1).repeat(1, 2).unsqueeze(1)
    cost = c.match_classification * (positive - negative)
    cost += c.match_l1 * torch.cdist(boxes / extent, wanted / extent, p=1.0)
    cost -= c.match_giou * generalized_iou(boxes.unsqueeze(-2), wanted.unsqueeze(-3), eps=1e-6)
    on_host = cost.cpu().numpy()
    return [
        [linear_sum_assignment(stage[i, :, :n]) for i, n in enumerate(targets.counts)] for stage in on_host
    ]


def _pad(rows: Tensor, length: int) -> Tensor:
    return torch.cat((rows, rows.new_zeros(length - len(rows), *rows.shape[1:])))


if __name__ == "__main__":
    tyro.cli(main)
