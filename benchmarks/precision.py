"""What `--train.precision auto` rests on: a pass of a detector in bf16 and in fp32, on a CPU, by turns.

    python -m benchmarks.precision

Forward pass, loss and backward pass, without an update, on one thread; CPU time, which other load moves less.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
import tyro

from benchmarks.timing import take_turns
from qdet.backbones import ResNetConfig
from qdet.detectors import AdaMixerConfig, DetectorConfig, DETRConfig
from qdet.losses import DETR_LOSS, SetLossConfig
from qdet.types import Targets

CLASSES, OBJECTS = 80, 6
R50 = ResNetConfig(depth=50, weights=None)
Case = tuple[Callable[[], DetectorConfig], SetLossConfig, tuple[int, int, int]]
"""A detector, its loss, and how many images of which height and width."""
CASES: dict[str, Case] = {
    "AdaMixer-R50, 100 queries": (
        lambda: AdaMixerConfig(queries=100, backbone=R50),
        SetLossConfig(),
        (1, 256, 320),
    ),
    "DETR-R50": (lambda: DETRConfig(backbone=R50), DETR_LOSS, (1, 256, 320)),
    "the demo's AdaMixer": (lambda: AdaMixerConfig().demo(), SetLossConfig(), (4, 160, 160)),
}


def main(*, rounds: int = 6, only: tuple[str, ...] = tuple(CASES)) -> None:
    """Print the seconds of both, and the ratio round by round.

    Args:
        rounds: Passes of each, after one for warm-up.
        only: Detectors to measure.
    """
    torch.set_num_threads(1)
    able, onednn = torch.cpu._is_avx512_bf16_supported(), torch.backends.mkldnn.is_available()
    print(f"avx512_bf16: {able}; oneDNN: {onednn}")
    print("| detector | fp32, s | bf16, s | bf16 / fp32 | rounds |\n| --- | --: | --: | --: | --- |")
    for name in only:
        run = make_pass(*CASES[name])
        variants = {kind: partial(run, bf16=kind == "bf16") for kind in ("fp32", "bf16")}
        times = take_turns(variants, torch.device("cpu"), rounds=rounds, warmup=1)
        slow, fast = (statistics.median(each) / 1e3 for each in times.values())
        ratios = sorted(b / a for a, b in zip(times["fp32"], times["bf16"], strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(
            f"| {name} | {slow:.2f} | {fast:.2f} | {statistics.median(ratios):.2f} | {spread} |", flush=True
        )


def make_pass(
    config: Callable[[], DetectorConfig], loss: SetLossConfig, shape: tuple[int, int, int]
) -> Callable[..., None]:
    """Return what makes one pass over random images and objects, in either precision."""
    torch.manual_seed(0)
    count, height, width = shape
    detector, criterion = config().build(CLASSES).train(), loss.build(CLASSES)
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * count)
    corners = torch.rand(count * OBJECTS, 2) * height / 2
    labels = torch.randint(0, CLASSES, (count * OBJECTS,))
    targets = Targets(torch.cat((corners, corners + height / 3), 1), labels, (OBJECTS,) * count)

    def run(*, bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            stages = detector(images, sizes)
        criterion(stages, targets, sizes, normalizer=count * OBJECTS).total.backward()
        detector.zero_grad()

    return run


if __name__ == "__main__":
    tyro.cli(main)
