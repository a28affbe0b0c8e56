"""What can be predicted in from a shell: files, patterns, folders, URLs, videos and datasets of shards."""

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from qdet.data.image.judge import check_count
from qdet.data.loading.sample import load_image
from qdet.data.shards.locate import Access
from qdet.data.shards.manifest import NAME
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError
from qdet.inference.pictures import FLAG, Picture, open_picture
from qdet.storage.urls import is_pattern, is_url

IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
VIDEOS = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"))


@dataclass(frozen=True)
class Still:
    """One image that is to be predicted in."""

    name: str
    """Path, URL, or shard and key."""
    file_name: str
    """What a drawing of it is called."""
    image_id: int | str
    """Its id in COCO results: that of its dataset, a file name's number, else the file name."""
    open: Callable[[], Picture]
    """Read its size; `DataError` where it is no image."""


@dataclass(frozen=True)
class Sources:
    """Everything that was named."""

    stills: tuple[Still, ...]
    videos: tuple[str, ...]
    """Paths or URLs."""


def find_sources(named: Sequence[str], *, max_pixels: int) -> Sources:
    """Find the images and videos behind paths, patterns, folders, URLs and shards, in the given order.

    Raises:
        DataError: A pattern or folder holds none, or a dataset cannot be opened.
    """
    stills: list[Still] = []
    videos: list[str] = []
    for name in named:
        if _is_shards(name):
            stills.extend(_stills_of(ShardSet.open(name, Access(max_pixels=max_pixels))))
            continue
        for file in _expand(name):
            if _ending(file) in VIDEOS:
                videos.append(file)
            else:
                stills.append(_still_of(file, max_pixels))
    return Sources(tuple(_with_own_ids(stills)), tuple(videos))


def _is_shards(name: str) -> bool:
    """True for tars, and for a folder or URL with a dataset's manifest."""
    if is_pattern(name) and ".tar" in name:
        return True
    if is_url(name):
        return _ending(name) not in IMAGES | VIDEOS and name.endswith("/")
    return (Path(name) / NAME).is_file()


def _stills_of(shards: ShardSet) -> Iterator[Still]:
    for row in range(len(shards)):
        yield Still(
            name=shards.name_of(row),
            file_name=f"{shards.key_of(row).replace('/', '_')}.jpg",
            image_id=int(shards.index.image_id[row]),
            open=partial(_open_sample, shards, row),
        )


def _open_sample(shards: ShardSet, row: int) -> Picture:
    """An image of a dataset, in its stored pixels."""
    name = shards.name_of(row)
    height, width = int(shards.index.height[row]), int(shards.index.width[row])
    check_count(height, width, shards.max_pixels, name=name, flag=FLAG)
    return Picture(name, (height, width), lambda: load_image(shards, row))


def _still_of(file: str, max_pixels: int) -> Still:
    base = PurePosixPath(file.partition("?")[0] if is_url(file) else Path(file).as_posix()).name
    stem = PurePosixPath(base).stem
    return Still(
        name=file,
        file_name=base,
        image_id=int(stem) if re.fullmatch(r"[0-9]{1,18}", stem) else base,
        open=partial(open_picture, file, max_pixels=max_pixels),
    )


def _expand(name: str) -> list[str]:
    """List the files that a path, folder or pattern names."""
    if is_url(name):
        return [name]
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES | VIDEOS and p.is_file())
        if not found:
            raise DataError(f"{name} holds no image or video, and no {NAME} of a dataset")
        return [str(p) for p in found]
    if path.exists() or not glob.has_magic(name):
        return [str(path)]  # one that is not there fails by itself, and the others are predicted
    files = sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())  # noqa: PTH207
    if not files:
        raise DataError(f"{name} matches no file; quote the pattern, and check the folder")
    return files


def _with_own_ids(stills: Sequence[Still]) -> Iterator[Still]:
    """Use paths as ids where file names do not tell images apart."""
    seen: dict[int | str, int] = {}
    for still in stills:
        seen[still.image_id] = seen.get(still.image_id, 0) + 1
    for still in stills:
        if seen[still.image_id] > 1:
            yield Still(still.name, still.file_name, still.name, still.open)
        else:
            yield still


def _ending(name: str) -> str:
    return PurePosixPath(name.partition("?")[0]).suffix.lower() if is_url(name) else Path(name).suffix.lower()
