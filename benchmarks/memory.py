"""Host memory of the loader over thousands of steps: its slope, in MB per 1,000 steps.

    python -m benchmarks.memory                      # 3,000 steps; the numbers in docs/data.md

Resident memory of the process, without pages shared with files, is sampled every few steps while batches are
read and dropped. The line is fitted after a warm-up, in which buffers grow to the largest batch.
"""

import gc
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
import tyro
from rich.console import Console

from data_prep.coco_to_shards import Conversion, convert
from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.prefetch import Readers
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet


@dataclass(frozen=True, kw_only=True)
class MemoryBenchmark:
    """What to measure."""

    coco: Path = Path(os.environ.get("QDET_COCO_ROOT", "../shared/coco128"))
    """COCO dataset in the standard layout."""
    split: str = "train2017"
    """Its split."""
    steps: int = 3000
    """Fitted steps."""
    warmup: int = 1000
    """Steps before them."""
    every: int = 10
    """Steps between samples."""
    batch_size: int = 4
    """Images per batch."""
    readers: int = 2
    """Readers of the loader."""
    reader_kind: Readers = "threads"
    """Kind of the readers; only the memory of the training process is measured."""


def main(config: MemoryBenchmark) -> None:
    """Read batches, sample memory, and print the slope."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "shards"
        conversion = Conversion(coco=config.coco, split=config.split, out=out, processes=1)
        convert(conversion, console=Console(quiet=True))
        # Half the published sizes: four times the steps in the same time, with as many allocations.
        augment = AugmentConfig(
            sizes=tuple(range(240, 401, 16)),
            max_size=667,
            crop=True,
            crop_sizes=(200, 250, 300),
            crop_range=(192, 300),
        )
        stream = TrainStream(
            ShardSet.open(out),
            augment,
            StreamConfig(
                batch_size=config.batch_size, seed=0, readers=config.readers, reader_kind=config.reader_kind
            ),
        )
        used = _sample_memory(stream, config)
    steps = np.arange(len(used)) * config.every
    slope = np.polyfit(steps, used, 1)[0] * 1000
    print(f"{used[0]:.1f} MB after {config.warmup} steps, {used[-1]:.1f} MB {config.steps} steps later")
    print(f"slope {slope:+.3f} MB per 1,000 steps; between {min(used):.1f} and {max(used):.1f} MB")


def _sample_memory(stream: TrainStream, config: MemoryBenchmark) -> list[float]:
    process, used = psutil.Process(), []
    for number, _ in enumerate(stream.steps(0, config.warmup + config.steps + 1)):
        if number >= config.warmup and (number - config.warmup) % config.every == 0:
            gc.collect()
            memory = process.memory_info()
            used.append((memory.rss - memory.shared) / 2**20)
    return used


if __name__ == "__main__":
    main(tyro.cli(MemoryBenchmark, description=__doc__))
