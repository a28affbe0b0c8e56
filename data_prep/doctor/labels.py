"""Suspicious labels, counted sample by sample in constant memory."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from data_prep.doctor.findings import SHOWN, Finding
from data_prep.wording import plural, printable, quote, shorten
from qdet.data.shards.categories import Categories

TINY = 8.0
"""Square root of the area, in pixels, below which a box is tiny: a cell of the finest usual feature map."""
NARROW = 20.0
"""Ratio of the sides above which a box is narrow."""
WHOLE = 0.99
"""Fraction of both sides from which a box covers the image."""
RARE = 100.0
"""Ratio of the most frequent class to another from which that is rare."""
_TEXTS = {
    "tiny_boxes": "are smaller than 8x8 pixels: train on larger images, or cut images into tiles",
    "whole_image_boxes": "cover the whole image: are they labels of images?",
    "boxes_across_the_border": "reach more than a pixel out of the image and are clipped",
    "narrow_boxes": "are more than 20 times as long as wide: are corners mixed up?",
    "repeated_boxes": "repeat another of the same class and image exactly: remove the copies",
    "boxes_of_several_classes": "are labelled with several classes: choose one",
}
_WARNINGS = frozenset(("repeated_boxes", "boxes_of_several_classes", "whole_image_boxes"))
_COMMON = frozenset(("tiny_boxes", "narrow_boxes"))  # worth a word where they are one in a hundred


class LabelTally:
    """Counts over the annotations of one set of shards."""

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        self.objects: Int64[np.ndarray, " classes"] = np.zeros(len(categories), np.int64)
        self.images_with: Int64[np.ndarray, " classes"] = np.zeros(len(categories), np.int64)
        self.images, self.empty, self.crowds = 0, 0, 0
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, annotation: Mapping[str, Any]) -> None:
        """Count one sample's annotation, as `ShardSet.read_annotation` gives it."""
        single = np.array(annotation["iscrowd"], np.int64) == 0
        boxes = np.array(annotation["boxes_xywh"], np.float64).reshape(-1, 4)[single]
        labels = self.categories.contiguous(annotation["category_ids"])[single]
        found = np.bincount(labels, minlength=len(self.categories))
        self.objects += found
        self.images_with += found > 0
        self.images += 1
        self.empty += not len(boxes)
        self.crowds += int((~single).sum())
        for check, wrong in self._judge(boxes, labels, annotation["width"], annotation["height"]):
            if wrong.any():
                self._count(check, wrong, boxes, annotation["file_name"])

    @staticmethod
    def _judge(
        boxes: Float64[np.ndarray, "n 4"], labels: Int64[np.ndarray, " n"], width: int, height: int
    ) -> Iterator[tuple[str, Bool[np.ndarray, " n"]]]:
        x, y, w, h = boxes.T
        yield "tiny_boxes", w * h < TINY**2
        yield "whole_image_boxes", (w >= WHOLE * width) & (h >= WHOLE * height)
        yield "boxes_across_the_border", (x < -1) | (y < -1) | (x + w > width + 1) | (y + h > height + 1)
        yield "narrow_boxes", np.maximum(w, h) > NARROW * np.minimum(w, h)
        if len(boxes) > 1:
            same, same_class = _find_repeated(boxes, labels)
            yield "repeated_boxes", same_class
            yield "boxes_of_several_classes", same & ~same_class

    def _count(self, check: str, wrong: Bool[np.ndarray, " n"], boxes: np.ndarray, image: str) -> None:
        self._counts[check] += int(wrong.sum())
        examples = self._examples.setdefault(check, [])
        if len(examples) < SHOWN:
            box = ", ".join(f"{side:g}" for side in boxes[int(wrong.argmax())])
            examples.append(f"{quote(image)} box {box}")

    def find(self, folder: str) -> Iterator[Finding]:
        """Yield what is suspicious in the shards of `folder`."""
        total = int(self.objects.sum())
        for check, count in sorted(self._counts.items()):
            if check in _COMMON and count < total / 100:
                continue
            said = f"{plural(count, 'box')} of {total:,} {_TEXTS[check]}"
            level = "warning" if check in _WARNINGS else "note"
            yield Finding(check, level, folder, count, said, tuple(self._examples[check]))
        yield from self._find_in_classes(folder)
        if self.empty > self.images / 10:
            said = f"{plural(self.empty, 'image')} of {self.images:,} have no objects: are labels missing?"
            yield Finding("images_without_objects", "note", folder, self.empty, said)

    def _find_in_classes(self, folder: str) -> Iterator[Finding]:
        names, most = [printable(name) for name in self.categories.names], int(self.objects.max(initial=0))
        absent = [names[k] for k in np.flatnonzero(self.objects == 0)]
        if absent:
            said = f"{plural(len(absent), 'class')} of {len(names)} without any box: remove or label them"
            yield Finding(
                "classes_without_boxes", "warning", folder, len(absent), said, tuple(absent[:SHOWN])
            )
        rare = [k for k in np.argsort(self.objects, kind="stable") if 0 < self.objects[k] * RARE < most]
        if rare:
            listed = shorten([f"{names[k]} {self.objects[k]:,}" for k in rare], SHOWN)
            said = (
                f"{plural(len(rare), 'class')} with less than a hundredth of the {most:,} boxes of "
                f"{names[int(self.objects.argmax())]}: {listed}; collect more, or expect a low AP there"
            )
            yield Finding("class_imbalance", "warning", folder, len(rare), said)


def _find_repeated(
    boxes: Float64[np.ndarray, "n 4"], labels: Int64[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Say of each box whether an earlier one has the same corners, and whether one has the class too."""
    rounded = boxes.round(2)
    _, first, group = np.unique(rounded, axis=0, return_index=True, return_inverse=True)
    same = first[group.reshape(-1)] != np.arange(len(boxes))
    labelled = np.concatenate((rounded, labels[:, None]), axis=1)
    _, first, group = np.unique(labelled, axis=0, return_index=True, return_inverse=True)
    return same, first[group.reshape(-1)] != np.arange(len(boxes))
