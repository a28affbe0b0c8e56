"""What a check of silent corruption and canonical sums cost, in CPU time relative to a step.

    OMP_NUM_THREADS=1 python -m benchmarks.verification          # the numbers in docs/reliability.md

One process makes steps of AdaMixer with ResNet-50 on two images of 320 x 320 pixels: so few and small that
the digests, which cost the same for any images, weigh more than in a real step.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import tyro

from qdet.detectors import AdaMixerConfig
from qdet.detectors.detector import Detector
from qdet.job import OptimConfig, TrainConfig
from qdet.losses import SetLoss, SetLossConfig
from qdet.training.corruption.copies import digest_copies
from qdet.training.corruption.recompute import GradientWatch, MicroBatch, compute_again, read_random_state
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.engine.build import build_engine
from qdet.training.engine.engine import Engine
from qdet.types import Batch, Targets

IMAGES = 2
WORLD = World(rank=0, size=1, device=torch.device("cpu"))


def main(*, repeats: int = 3, pixels: int = 320, every: int = 100) -> None:
    """Alternate what is compared, and print medians.

    Args:
        repeats: Steps of each kind.
        pixels: Side of the images in pixels.
        every: Steps between checks, as in `--train.verify-every`.
    """
    torch.set_num_threads(1)
    detector, criterion = AdaMixerConfig().build(80).train(), SetLossConfig().build(80)
    ema, images = Ema(detector, 0.999), [make_batch(1, pixels) for _ in range(IMAGES)]
    whole = make_batch(IMAGES, pixels)
    train = TrainConfig(batch_size=IMAGES, workers=1, accelerator="cpu", zero=0, precision="fp32")
    plain = build_engine(detector, train, OptimConfig(lr=1e-9), WORLD)
    canonical = build_engine(detector, replace(train, canonical=1), OptimConfig(lr=1e-9), WORLD)
    watch = GradientWatch([p for p in detector.parameters() if p.requires_grad])

    def watched() -> None:
        with watch.watching():
            make_step(plain, criterion, [whole])
        watch.read()

    kinds: dict[str, Callable[[], object]] = {
        "step": lambda: make_step(plain, criterion, [whole]),
        "step with a digest of its gradient": watched,
        "computed again": lambda: check(plain, detector, criterion, whole),
        "digest of weights, moments and average": lambda: digest_copies(plain.state, ema),
        "canonical step, of micro-batches of one image": lambda: make_step(canonical, criterion, images),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats + 1):  # the first makes AdamW's state
        for name, act in kinds.items():
            seconds[name].append(spend(act))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    step, digested, again, *_ = medians.values()
    for name, value in medians.items():
        print(f"{name}: {value:.2f} s of CPU time, {value / step:.2f} of a step")
    extra = digested - step + again
    print(f"a check in {every} steps: {extra / step / every:.2%} of them, beside 1/{every} = {1 / every:.2%}")


def make_batch(images: int, pixels: int) -> Batch:
    """Return random images with two objects each."""
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.3, 0.9, 0.8]]).repeat(images, 1) * pixels
    sizes = torch.tensor([[pixels, pixels]] * images)
    return Batch(
        images=torch.randint(0, 256, (images, 3, pixels, pixels), dtype=torch.uint8),
        sizes_hw=sizes,
        original_hw=sizes,
        image_ids=torch.arange(images),
        valid=torch.ones(images, dtype=torch.bool),
        targets=Targets(boxes_xyxy=boxes, labels=torch.arange(2 * images), counts=(2,) * images),
    )


def make_step(engine: Engine, criterion: SetLoss, batches: list[Batch]) -> None:
    """Make one step of some micro-batches."""
    for batch in batches:
        stages = engine(batch.images, batch.sizes_hw)
        engine.backward(criterion(stages, batch.targets, batch.sizes_hw, normalizer=4.0).total)
        engine.step(1.0)


def check(engine: Engine, detector: Detector, criterion: SetLoss, batch: Batch) -> int:
    """Do what the rank does that checks another: read what it sends, and compute its gradient again."""
    content = MicroBatch(batch, read_random_state(WORLD.device)).to_bytes()
    return compute_again(
        detector,
        criterion,
        MicroBatch.from_bytes(content),
        divisors={"normalizer": 4.0},
        loss_divisor=engine.loss_divisor,
        bf16=False,
    )


def spend(act: Callable[[], object]) -> float:
    """Return the CPU seconds that a call takes."""
    began = time.process_time()
    act()
    return time.process_time() - began


if __name__ == "__main__":
    tyro.cli(main)
