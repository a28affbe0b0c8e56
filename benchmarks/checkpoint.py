"""How long a checkpoint holds training up, beside a step and beside what writing it takes on the thread.

    python -m benchmarks.checkpoint          # AdaMixer with ResNet-50; what docs/reliability.md has

One process holds the whole state: weights, both moments and the average. On W workers each copies and writes
one W-th of it. The step is one of two images of 320 x 320, so small that the share is an upper bound.
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
from qdet.training.checkpointing.save import Saving
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.sharded_state import MOMENTS, ShardedState
from qdet.types import Targets


def main(*, repeats: int = 5, pixels: int = 320, every: int = 500) -> None:
    """Measure, alternating between steps alone and steps while a checkpoint is written.

    Args:
        repeats: Checkpoints and steps of each kind.
        pixels: Side of both images.
        every: Steps between checkpoints, as in `--train.checkpoint-every`.
    """
    torch.set_num_threads(1)
    detector = AdaMixerConfig().build(80).train()
    optimizer, ema = torch.optim.AdamW(detector.parameters(), lr=1e-9), Ema(detector, 0.999)
    step = stepper(detector, optimizer, pixels)
    step()  # AdamW makes its moments in its first
    world = World(rank=0, size=1, device=torch.device("cpu"))
    state = ShardedState(detector, optimizer, stage=0, world=world)
    alone, beside, stalls, writing = [], [], [], []

    def tensors() -> list[Piece]:
        return state.pieces() + ema.pieces(state)

    with tempfile.TemporaryDirectory() as folder:
        saving = Saving(RunFolder(open_folder(folder)), world, Retention(last=1))
        for number in range(repeats + 1):  # the first makes the memory for copies
            alone.append(step())
            began = time.perf_counter()
            stalls.append(saving.save(number, tensors, contents(saving, state, ema)))
            beside.append(step())
            saving.wait()
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


def contents(saving: Saving, state: ShardedState, ema: Ema) -> Callable[[], Contents]:
    """Describe a checkpoint of a training that nobody will go on with."""
    kinds = {"weights": list(state.shapes), "average": ema.names} | dict.fromkeys(MOMENTS, state.trained)
    shapes = {f"{kind}/{name}": state.shapes[name] for kind, names in kinds.items() for name in names}
    stand = TrainState(
        step=1, updates=1, ema_updates=1, seed=0, batch_size=2, data_digest="", categories={"names": []}
    )
    return lambda: Contents(attempt=saving.attempt, world_size=1, state=stand, job={}, shapes=shapes)


def stepper(detector: torch.nn.Module, optimizer: torch.optim.Optimizer, pixels: int) -> Callable[[], float]:
    """Return a function that makes one training step and returns the CPU seconds of this thread."""
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
