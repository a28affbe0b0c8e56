"""What was measured of a table, as JSON: a row lands when all of its seeds have been trained."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qdet.errors import ConfigError
from qdet.storage.parsing import parse_json


@dataclass(frozen=True, kw_only=True)
class Curve:
    """AP of one seed over its training."""

    steps: tuple[int, ...]
    ap: tuple[float, ...]

    @property
    def last(self) -> float:
        """AP of the last evaluation."""
        return self.ap[-1]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row: what it is, and its AP by seed."""

    parameters: int
    macs: int
    """Multiply-accumulates of one image at the size that was trained."""
    rate: float
    """Learning rate of its seeds."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """AP by learning rate, of those that were tried before."""
    seeds: Mapping[int, Curve]
    source: str = ""
    """Table and row with the same job whose seeds these are; empty where they were trained here."""
    machine: str
    versions: Mapping[str, str]
    day: str
    hours: float | None = None
    """Wall-clock time of its trainings, where it was recorded."""

    @property
    def ap(self) -> dict[int, float]:
        """Last AP by seed."""
        return {seed: curve.last for seed, curve in self.seeds.items()}


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is known of a table."""

    table: str
    scale: Mapping[str, Any]
    """What all rows share: steps, images in a step, digest of the images, settings."""
    rows: Mapping[str, Measured] = field(default_factory=dict)

    def put(self, name: str, row: Measured) -> "Results":
        """Return them with one row more, or with a row replaced."""
        return Results(table=self.table, scale=self.scale, rows={**self.rows, name: row})

    def write(self, path: Path) -> None:
        """Replace the file as a whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read what `write` has written.

        Raises:
            ConfigError: The file is something else, or damaged.
        """
        try:
            found = parse_json(path.read_bytes())
            rows = {name: _row(row) for name, row in found["rows"].items()}
            return cls(table=str(found["table"]), scale=dict(found["scale"]), rows=rows)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"{path} holds no results of a table ({error!r}): restore it, or remove it"
            ) from error

    def require(self, scale: Mapping[str, Any], path: Path) -> None:
        """Raise ConfigError where rows of another scale would stand beside those that are there."""
        for key in sorted({*self.scale, *scale}):
            then, now = self.scale.get(key), scale.get(key)
            if then != now:
                raise ConfigError(
                    f"{path} has rows with {key} {then}, not {now}: give the same again, or another --results"
                )


def _row(found: Mapping[str, Any]) -> Measured:
    seeds = {int(seed): _curve(curve) for seed, curve in found["seeds"].items()}
    if not seeds:
        raise ValueError("a row has no seeds")
    numbers = [found["parameters"], found["macs"], found["rate"], found.get("hours") or 0.0]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a row needs finite numbers")
    return Measured(**{**found, "seeds": seeds})


def _curve(found: Mapping[str, Any]) -> Curve:
    curve = Curve(steps=tuple(map(int, found["steps"])), ap=tuple(map(float, found["ap"])))
    if not curve.ap or len(curve.steps) != len(curve.ap) or not all(map(math.isfinite, curve.ap)):
        raise ValueError("a curve needs a finite AP for each of its steps")
    return curve
