"""The box around a segmentation in one of COCO's forms: polygons, or a run-length encoded mask.

Runs go down the columns and begin with the background. In the compressed form every run is written in groups
of five bits, the lowest first, each a character from "0" (48) on whose sixth bit says that more follow; from
the fourth run on it is the difference to the run two before it (pycocotools, `maskApi.c`).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

XYWH = tuple[float, float, float, float]


def box_around(segmentation: Any) -> XYWH | None:
    """Return left, top, width and height in pixels; None for what is no segmentation, or an empty one."""
    try:
        if isinstance(segmentation, Mapping):
            return _box_of_runs(segmentation)
        return _box_of_points(_read_points(segmentation))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError):
        return None


def _box_of_points(points: Sequence[float]) -> XYWH | None:
    xs, ys = points[::2], points[1::2]
    if not ys or len(xs) != len(ys):
        return None
    x, y = min(xs), min(ys)
    return x, y, max(xs) - x, max(ys) - y


def _read_points(given: Any) -> list[float]:
    """Return x and y in turn, of polygons that are flat lists, lists of points, or several of either."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise TypeError(given)
    if given and not any(isinstance(one, Sequence) for one in given):
        if len(given) % 2:
            raise ValueError(given)
        return [float(number) for number in given]
    return [number for one in given for number in _read_points(one)]


def _box_of_runs(mask: Mapping[str, Any]) -> XYWH | None:
    height, width = (int(side) for side in mask["size"])
    counts = mask["counts"]
    runs = list(_decompress(counts)) if isinstance(counts, str | bytes) else [int(run) for run in counts]
    if height < 1 or sum(runs) > height * width or min(runs, default=0) < 0:
        return None
    ends = list(accumulate(runs))
    filled = [(begin, end) for begin, end in zip(ends[::2], ends[1::2], strict=False) if end > begin]
    if not filled:
        return None
    left, right = filled[0][0] // height, (filled[-1][1] - 1) // height
    rows = [_rows(begin, end, height) for begin, end in filled]
    top, bottom = min(first for first, _ in rows), max(last for _, last in rows)
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _rows(begin: int, end: int, height: int) -> tuple[int, int]:
    """Return the first and last row of a run; one that continues in the next column touches both borders."""
    if begin // height != (end - 1) // height:
        return 0, height - 1
    return begin % height, (end - 1) % height


def _decompress(text: str | bytes) -> Iterator[int]:
    data = text.encode("ascii") if isinstance(text, str) else text
    runs: list[int] = []
    at = 0
    while at < len(data):
        value, bits, group = 0, 0, 32
        while group & 32:
            group = data[at] - 48
            if not 0 <= group < 64 or bits > 60:
                raise ValueError(text)
            value |= (group & 31) << bits
            bits, at = bits + 5, at + 1
        if group & 16:
            value -= 1 << bits
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        yield value
