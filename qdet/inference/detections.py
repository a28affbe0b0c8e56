"""What a model found in one image."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from qdet.data.shards.categories import Categories
from qdet.inference import SCORE
from qdet.inference.pictures import Picture
from qdet.types import BatchDetections
from qdet.visualize.boxes import DrawnBoxes, draw

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Detections:
    """Scored boxes of one image, best first; indexing, slicing and masks give fewer of them.

    >>> found = model.predict("street.jpg").above(0.5)
    >>> found[0].names, found[found.labels == 2].boxes_xyxy
    """

    boxes_xyxy: Float[np.ndarray, "n 4"]
    """Corners in pixels of the given image."""
    scores: Float[np.ndarray, " n"]
    """In [0, 1]."""
    labels: Int[np.ndarray, " n"]
    """Class indices, from 0; `classes` has their names and the dataset's ids."""
    classes: Categories = field(repr=False)
    picture: Picture = field(repr=False)
    """The image that they were found in."""

    @classmethod
    def of_batch(
        cls, found: BatchDetections, row: int, *, classes: Categories, picture: Picture
    ) -> "Detections":
        """Take those of one image out of a batch, sorted by score; ties keep the model's order."""
        scores = found.scores[row].detach().float().cpu().numpy()
        order = np.argsort(-scores, kind="stable")
        return cls(
            boxes_xyxy=found.boxes_xyxy[row].detach().float().cpu().numpy()[order],
            scores=scores[order],
            labels=found.labels[row].cpu().numpy()[order].astype(np.int64),
            classes=classes,
            picture=picture,
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator["Detections"]:
        """One detection after the other."""
        return (self[i] for i in range(len(self)))

    def __getitem__(
        self, which: int | slice | Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]
    ) -> "Detections":
        """Return some of them; an integer gives one."""
        if isinstance(which, int | np.integer):
            which = slice(which, which + 1) if which != -1 else slice(-1, None)
            if not len(self.scores[which]):
                raise IndexError(f"there are {len(self)} detections")
        return replace(
            self, boxes_xyxy=self.boxes_xyxy[which], scores=self.scores[which], labels=self.labels[which]
        )

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.classes.names[label] for label in self.labels]

    @property
    def source(self) -> str:
        """Path, URL or number of the image."""
        return self.picture.name

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.picture.size_hw

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The image; one from a file is read again."""
        return self.picture.decode()

    def above(self, score: float) -> "Detections":
        """Return those of at least that score."""
        return self[self.scores >= np.float64(score)]  # a Python float would be rounded to float32

    def draw(self, *, score: float = SCORE, size: int | None = None) -> Image.Image:
        """Draw those of at least that score on the image.

        Args:
            score: In [0, 1].
            size: Longer side of the picture in pixels; by default that of the image.
        """
        boxes = DrawnBoxes(self.boxes_xyxy.astype(np.float64), self.labels, self.scores.astype(np.float64))
        names = dict(enumerate(self.classes.names))
        return Image.fromarray(draw(self.image, boxes, names, threshold=score, size=size))

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return a COCO results list: the dataset's category ids, boxes as x, y, width, height in pixels."""
        boxes = self.boxes_xyxy.astype(np.float64)
        xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
        ids = self.classes.original(self.labels)
        return [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(
                ids.tolist(), xywh.tolist(), self.scores.astype(np.float64).tolist(), strict=True
            )
        ]

    def to_supervision(self) -> "supervision.Detections":
        """Return them for the tools of `supervision`: trackers, zones, annotators."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes_xyxy,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, in place of its detections."""

    source: str
    """Path, URL or number of the image."""
    reason: str
    """Why, and what to do."""
