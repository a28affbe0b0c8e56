"""Costs and assignment of a training step, against the padded definition, for counts of objects as they come.

    python -m benchmarks.matching

Where the assignment can run as a kernel, it does so in turn with scipy: on a GPU, or with TRITON_INTERPRET=1
in Triton's interpreter, whose time says nothing about a GPU.
"""

import json
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import tyro
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.machine import describe_machine
from benchmarks.timing import Task, take_turns
from qdet.boxes import generalized_iou
from qdet.kernels.assignment import assignment_runs
from qdet.kernels.choice import Choice, has_triton, interpreting, kernels
from qdet.losses import SetLoss, SetLossConfig
from qdet.losses.matching import Assignment
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


def main(*, repeats: int = 9, queries: int = QUERIES, out: str = "") -> None:
    """Print times of all ways, in turn, and how many times the first takes of each.

    Args:
        repeats: Rounds, after one for warm-up.
        queries: Queries of an image.
        out: A file for the numbers, as JSON.
    """
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print("| counts | objects | way | ms | padded / this |\n| --- | --: | --- | --: | --: |")
    found = []
    for name, counts in COUNTS.items():
        with device:
            criterion, stages, targets, sizes = make_batch(counts, queries)
        ways = ways_to_match(criterion, stages, targets, sizes)
        times = take_turns(ways, device, rounds=repeats, warmup=1)
        for way, each in times.items():
            ratio = statistics.median(a / b for a, b in zip(times["padded"], each, strict=True))
            row = {"counts": counts, "way": way, "ms": statistics.median(each), "ratio": ratio}
            found.append(row | {"all": each})
            print(f"| {name} | {sum(counts)} | {way} | {row['ms']:.1f} | {ratio:.2f} |", flush=True)
    if out:
        content = {"machine": describe_machine(), "queries": queries, "found": found}
        Path(out).write_text(json.dumps(content))


def ways_to_match(
    criterion: SetLoss, stages: Sequence[Predictions], targets: Targets, sizes: Tensor
) -> dict[str, Task]:
    """Return the ways to match a batch: `kernel` is among them where it runs and finds the same pairs."""

    def match(choice: Choice) -> list[Assignment]:
        with kernels(choice):
            return criterion.match(stages, targets, sizes)

    ways: dict[str, Task] = {
        "padded": partial(match_padded, criterion.config, stages, targets, sizes),
        "by object": partial(match, "torch"),
    }
    logits = stages[0].logits
    if has_triton() and (logits.is_cuda or interpreting()):
        cost = logits.new_empty(len(stages), sum(targets.counts), logits.shape[1])
        with kernels("triton"):
            runs = assignment_runs(cost, targets.counts)
        if runs and _are_equal(match("triton"), match("torch")):
            ways["kernel"] = partial(match, "triton")
    return ways


def _are_equal(found: Sequence[Assignment], wanted: Sequence[Assignment]) -> bool:
    each = zip(found, wanted, strict=True)
    return all(a.queries.equal(b.queries) and a.objects.equal(b.objects) for a, b in each)


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
