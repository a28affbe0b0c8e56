"""What every published model costs, from a file: counting all of them takes two minutes.

`qdet zoo --count` counts anew and prints the file.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from qdet.detectors import DetectorConfig
from qdet.detectors.complexity import count_macs, count_parameters
from qdet.zoo.models import Model

FILE = Path(__file__).with_suffix(".json")
SIZE_HW = (800, 1333)
"""Size of the image that multiply-accumulates are counted for."""


class Cost(NamedTuple):
    """Parameters, and multiply-accumulates of one image."""

    params: int
    macs: int


def cost_of(model: Model) -> Cost:
    """Return what the file says of a model, or count one that it does not have."""
    return recorded().get(model.job.name) or count(model)


@cache
def recorded() -> dict[str, Cost]:
    """Return the file: costs by the name of the model."""
    return {name: Cost(*numbers) for name, numbers in json.loads(FILE.read_text()).items()}


def count(model: Model) -> Cost:
    """Build a model on the meta device, with the authors' number of class logits, and count it."""
    return _count(model.job.detector, model.published.classes)


@cache
def _count(config: DetectorConfig, classes: int) -> Cost:
    """Count a detector once for all schedules that train it."""
    with torch.device("meta"):
        detector = config.build(classes)
    image, size = torch.empty(1, 3, *SIZE_HW), torch.tensor([SIZE_HW])
    return Cost(count_parameters(detector), count_macs(detector.eval(), image, size))


def render(models: Iterable[Model]) -> str:
    """Count models and return the file's text: one of them a line."""
    lines = [f' "{model.job.name}": {json.dumps(count(model))}' for model in models]
    return "{\n" + ",\n".join(lines) + "\n}\n"
