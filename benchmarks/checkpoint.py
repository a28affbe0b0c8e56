"""How long a checkpoint stalls training, compared with a step and with writing in the background.

    python -m benchmarks.checkpoint          # AdaMixer with ResNet-50; the numbers in docs/reliability.md

One process holds the whole state: weights, both moments and averaged weights. On W workers each copies and
writes 1/W of it. The step takes two images of 320 x 320 pixels, so few that the relative stall is an upper
bound.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from torch import Tensor

from qdet.checkpoint import Piece, Retention, RunFolder, TrainState, open_folder
from qdet.checkpoint.writing import Contents
from qdet.detectors import AdaMixerConfig
from qdet.losses import SetLossConfig
from qdet.training.checkpointing.save import CheckpointWriter
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.engine.sharded_state import MOMENTS, ShardedState
from qdet.types import Targets


def main(*, repeats: int = 5, pixels: int = 320, every: int = 500) -> None:
    """Alternate steps alone with steps during the writing of a checkpoint, and print the times.

    Args:
        repeats: Checkpoints, and steps of each kind.
        pixels: Side of both images in pixels.
        every: Steps between checkpoints, as in `--train.checkpoint-every`.
    """
    torch.set_num_threads(1)
    detector = AdaMixerConfig().build(80).train()
    optimizer, ema = torch.optim.AdamW(detector.parameters(), lr=1e-9), Ema(detector, 0.999)
    step = make_stepper(detector, optimizer, pixels)
    step()  # AdamW creates its moments in the first step
    world = World(rank=0, size=1, device=torch.device("cpu"))
    state = ShardedState(detector, optimizer, stage=0, world=world)
    alone, beside, stalls, writing = [], [], [], []

    def tensors() -> list[Piece]:
        return state.pieces() + ema.pieces(state)

    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(RunFolder(open_folder(folder)), world, Retention(last=1))
        for number in range(repeats + 1):  # the first allocates the memory for copies
            alone.append(step())
            began = time.perf_counter()
            stalls.append(writer.save(number, tensors, describe_contents(writer, state, ema)))
            beside.append(step())
            writer.wait()
            writing.append(time.perf_counter() - began)
        size = sum(p.stat().st_size for p in Path(folder).rglob(f"step_{repeats:06d}/*"))
    step_alone, step_beside, stall, wrote = (
        statistics.median(values[1:]) for values in (alone, beside, stalls, writing)
    )
    print(f"state of {size / 1e9:.2f} GB, {pixels} pixels, medians of {repeats}")
    print(f"step alone {step_alone:.2f} s of CPU time, beside writing {step_beside:.2f} s")
    print(f"stall {stall:.2f} s, the first {stalls[0]:.2f} s: {stall / size * 1e9:.2f} s per GB")
    print(f"stall over {every} steps: {stall / (every * step_alone):.3%}")
    print(f"stall and writing {wrote:.2f} s with a step beside it")


def describe_contents(writer: CheckpointWriter, state: ShardedState, ema: Ema) -> Callable[[], Contents]:
    """Return a function that describes the checkpoint, with a placeholder training state."""
    kinds = {"weights": list(state.shapes), "average": ema.names} | dict.fromkeys(MOMENTS, state.trained)
    shapes = {f"{kind}/{name}": state.shapes[name] for kind, names in kinds.items() for name in names}
    stand = TrainState(
        step=1, updates=1, ema_updates=1, seed=0, batch_size=2, data_digest="", categories={"names": []}
    )
    return lambda: Contents(attempt=writer.attempt, world_size=1, state=stand, job={}, shapes=shapes)


def make_stepper(
    detector: torch.nn.Module, optimizer: torch.optim.Optimizer, pixels: int
) -> Callable[[], float]:
    """Return a function that runs one training step and returns its CPU seconds on this thread."""
    images = torch.randint(0, 256, (2, 3, pixels, pixels), dtype=torch.uint8)
    sizes: Tensor = torch.tensor([[pixels, pixels]] * 2)
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.3, 0.9, 0.8]]).repeat(2, 1) * pixels
    targets = Targets(boxes_xyxy=boxes, labels=torch.arange(4), counts=(2, 2))
    criterion = SetLossConfig().build(80)

    def step() -> float:
        began = time.thread_time()
        criterion(detector(images, sizes), targets, sizes, normalizer=4.0).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.thread_time() - began

    return step


if __name__ == "__main__":
    tyro.cli(main)
