"""AP beside the one that the authors of converted weights published for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdet.convert.published import IMAGES, TOLERANCE


@dataclass(frozen=True)
class PublishedAP:
    """Two APs of the same weights, in percent."""

    name: str
    source: str
    """Page that gives the published one."""
    ap: float
    found: float
    images: int
    """How many the found one is of."""

    @property
    def comparable(self) -> bool:
        """Whether as many images were evaluated as COCO val2017 has."""
        return self.images == IMAGES

    @property
    def equal(self) -> bool | None:
        """Whether the two agree within the tolerance; None where they are of different images."""
        return abs(self.found - self.ap) <= TOLERANCE + 1e-9 if self.comparable else None

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "name": self.name,
            "source": self.source,
            "AP": self.ap,
            "found": self.found,
            "tolerance": TOLERANCE,
            "equal": self.equal,
        }

    def __str__(self) -> str:
        """Say it in a line."""
        said = f"{self.name}: AP {self.found:.2f} here, {self.ap:.1f} by its authors ({self.source})"
        if self.equal is None:
            return f"{said}, which is of the {IMAGES:,} images of COCO val2017, not of these {self.images:,}"
        verdict = "equal" if self.equal else "not equal"
        return f"{said}: {verdict} within {TOLERANCE}"


def published_ap(job: Mapping[str, Any], ap: float, images: int) -> PublishedAP | None:
    """Return the published AP of converted weights beside `ap`, a share of 1; None where none is known."""
    if "published.ap" not in job:
        return None
    name, source = (str(job.get(f"published.{key}", "")) for key in ("name", "source"))
    return PublishedAP(name, source, float(job["published.ap"]), 100 * ap, images)
