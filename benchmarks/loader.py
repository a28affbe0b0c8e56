"""CPU time per image of the loader, compared with DETR's data path and with decoding and resizing alone.

    python -m benchmarks.loader                      # images of QDET_COCO_ROOT; the numbers in docs/data.md
    python -m benchmarks.loader --reader-kind processes --readers 4

CPU time of this process and its children, the minimum over interleaved rounds: ratios are stable where times
are not. All paths apply DETR's augmentation to the same images, in batches of the same size; the loader and
decoding alone use the same sizes and windows.
"""

import os
import resource
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import simplejpeg
import torch
import tyro
from rich.console import Console

from benchmarks import detr_reference
from benchmarks.copies import repeat_dataset
from data_prep.coco_to_shards import Conversion, convert
from qdet.data.augment import AugmentConfig
from qdet.data.image.resize import resize
from qdet.data.image.view import View
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.prefetch import Readers
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet

DETR = AugmentConfig(crop=True)
Views = list[tuple[int, View]]
"""Samples and their augmentation, in the loader's order."""


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """What to measure."""

    coco: Path = Path(os.environ.get("QDET_COCO_ROOT", "../shared/coco128"))
    """COCO dataset in the standard layout."""
    split: str = "train2017"
    """Its split."""
    copies: int = 8
    """Repetitions of its images, so that batches of similar sizes can be formed."""
    images: int = 480
    """Images per round."""
    batch_size: int = 8
    """Images per batch."""
    readers: int = 2
    """Readers of the loader, and worker processes of the reference."""
    reader_kind: Readers = "threads"
    """Kind of the loader's readers."""
    rounds: int = 4
    """Rounds, each of which runs every path once."""


def main(config: LoaderBenchmark) -> None:
    """Measure every path and print the ratios."""
    torch.set_num_threads(1)
    steps = config.images // config.batch_size
    with tempfile.TemporaryDirectory() as folder:
        coco = repeat_dataset(config.coco, config.split, config.copies, Path(folder) / "coco")
        out = Path(folder) / "shards"
        convert(Conversion(coco=coco, split=config.split, out=out), console=Console(quiet=True))
        shards = ShardSet.open(out)
        stream = TrainStream(
            shards,
            DETR,
            StreamConfig(
                batch_size=config.batch_size, seed=0, readers=config.readers, reader_kind=config.reader_kind
            ),
        )
        views = _list_views(stream, steps)
        files = {row: shards.read_image(row) for row, _ in views}
        reference = _make_reference(coco, config)
        paths: dict[str, Callable[[], None]] = {
            "DETR's path": lambda: _consume(reference(steps)),
            "loader": lambda: _consume(stream.steps(0, steps)),
            "decode and resize": lambda: _decode_and_resize(files, views),
            "read": lambda: _read(shards, views),
        }
        _report(paths, config)


def _report(paths: dict[str, Callable[[], None]], config: LoaderBenchmark) -> None:
    best = dict.fromkeys(paths, float("inf"))
    for _ in range(config.rounds):
        for name, path in paths.items():
            best[name] = min(best[name], _measure_cpu_seconds(path) / config.images * 1000)
    for name, spent in best.items():
        print(f"{name:28s} {spent:8.2f} ms of processor time per image")
    reference, loader, bare, read = best.values()
    print(f"DETR's path / loader         {reference / loader:8.2f}")
    print(f"loader / decode and resize   {loader / bare:8.2f}")
    print(f"read / loader                {read / loader:8.1%}")


def _measure_cpu_seconds(path: Callable[[], None]) -> float:
    """Return the CPU seconds that this process and its finished children spend on `path`."""

    def spent() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    before = spent()
    path()
    return spent() - before


def _make_reference(coco: Path, config: LoaderBenchmark) -> Callable[[int], Iterable[object]]:
    annotations = coco / "annotations" / f"instances_{config.split}.json"
    dataset = detr_reference.DetrDataset(coco / config.split, annotations, DETR)
    return lambda steps: detr_reference.build_loader(
        dataset, batch_size=config.batch_size, images=steps * config.batch_size, workers=config.readers
    )


def _consume(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def _list_views(stream: TrainStream, steps: int) -> Views:
    return [
        (row, step.plan.views.of(row)) for step in stream.order.steps(0, steps) for row in step.rows.tolist()
    ]


def _decode_and_resize(files: dict[int, bytes], views: Views) -> None:
    """Decode and resize each image, twice where a window is cropped."""
    for row, view in views:
        image = resize(simplejpeg.decode_jpeg(files[row], colorspace="RGB"), view.resized_hw)
        if view.window_tlhw is not None:
            top, left, h, w = view.window_tlhw
            resize(image[top : top + h, left : left + w], view.final_hw)


def _read(shards: ShardSet, views: Views) -> None:
    for row, _ in views:
        shards.read_image(row)
        shards.read_annotation(row)


if __name__ == "__main__":
    main(tyro.cli(LoaderBenchmark, description=__doc__))
