"""A user's dataset as shards, split by split, and what the settings of a training follow from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qdet.console import open_console
from qdet.data.shards.manifest import NAME
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.launching import paths
from qdet.small_data import DataFacts
from qdet.storage.urls import is_url

if TYPE_CHECKING:
    from data_prep.datasets import Dataset

SPLITS = ("train", "val", "test")
SHARE = 0.1
"""Share of the images to validate with, where a dataset has no part for it."""
SAMPLED = 2000
"""Most images whose annotations are read for the settings."""
LOOKED_AT = 5000
"""Most images in a dataset that are compared pixel by pixel, which finds copies."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line says of the data."""

    data: str
    val: str | None = None
    val_share: float | None = None
    format: str | None = None
    out: Path | None = None


def find_shards(request: Request) -> dict[str, str]:
    """Return the folder of shards of every split, which are written if they are not there.

    Raises:
        ConfigError: There is no training or no validation part, or flags contradict each other.
        DataError: Annotations or images are wrong; the message names the file.
    """
    found = _existing(request)
    if found is None:
        found = _convert(request)
    if "train" not in found:
        raise ConfigError(f"--data {request.data} has no part to train on, only {', '.join(found)}")
    return found


def gather_facts(folder: str) -> DataFacts:
    """Read what the settings follow from, in annotations of evenly spaced training images."""
    shards = ShardSet.open(folder)
    rows = np.linspace(0, len(shards) - 1, min(len(shards), SAMPLED)).round().astype(int)
    samples = [shards.read_annotation(row) for row in rows.tolist()]
    boxes = np.concatenate([_boxes(sample) for sample in samples])
    counts = [len(_boxes(sample)) for sample in samples]
    sizes = np.array([(sample["height"], sample["width"]) for sample in samples])
    height, width = np.median(sizes, axis=0).round().astype(int).tolist()
    side = float(np.median(np.sqrt(boxes[:, 2] * boxes[:, 3]))) if len(boxes) else float(min(height, width))
    crowd = max(1, int(np.ceil(np.percentile(counts, 99))))
    return DataFacts(len(shards), len(shards.categories), crowd, side, (height, width))


def _boxes(sample: Mapping[str, Any]) -> np.ndarray:
    """Return the boxes [n, 4], x y w h in pixels, of single objects."""
    boxes = np.array(sample["boxes_xywh"], np.float64).reshape(-1, 4)
    return boxes[np.array(sample["iscrowd"], np.int64) == 0]


def _existing(request: Request) -> dict[str, str] | None:
    """Return the splits of a dataset that is in shards already; None where it is not."""
    root = request.data
    if is_url(root) or "{" in root or _is_shards(root):
        found = {"train": root}
    else:
        found = {name: f"{root}/{name}" for name in SPLITS if _is_shards(f"{root}/{name}")}
    if not found:
        return None
    if request.val_share is not None:
        raise ConfigError(f"--val-share: {root} is in shards already; give those to validate with: --val DIR")
    if request.val is not None:
        found["val"] = request.val
    if "val" not in found:
        raise ConfigError(
            f"--data {root} holds shards of {', '.join(found)}; give those to validate with by --val DIR"
        )
    return found


def _is_shards(folder: str) -> bool:
    return (Path(folder).expanduser() / NAME).is_file()


def _convert(request: Request) -> dict[str, str]:

    from data_prep.datasets import pack_split

    dataset = _open(request)
    print(dataset.describe(), flush=True)
    out = request.out or Path("data") / Path(os.path.realpath(Path(request.data).expanduser())).name
    found = {}
    for name, split in dataset.splits.items():
        found[name] = str(pack_split(split, Path(paths.absolute(str(out))) / name, console=open_console()))
    _print_findings(found, images=sum(map(len, dataset.splits.values())))
    return found


def _print_findings(shards: Mapping[str, str], *, images: int) -> None:
    """Say what may be wrong with labels and images; training starts all the same."""
    from data_prep.doctor import check_shards

    for finding in check_shards(list(shards.values()), pixels=images <= LOOKED_AT):
        print(finding, flush=True)


def _open(request: Request) -> "Dataset":
    """Open a dataset; one without a part to validate with is split."""
    from data_prep.datasets import open_dataset

    def split(val_share: float | None) -> "Dataset":
        return open_dataset(request.data, format=request.format, val=request.val, val_share=val_share)

    dataset = split(request.val_share)
    if "val" in dataset.splits:
        return dataset
    print(f"{request.data} has no part to validate with: --val-share {SHARE} of its images are", flush=True)
    return split(SHARE)
