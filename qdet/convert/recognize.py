"""Recognise a checkpoint: its authors, the detector it fits and its classes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qdet.backbones import BackboneConfig, ResNetConfig, ResNeXtDCNConfig
from qdet.convert.classes import with_classes
from qdet.convert.files import Metadata
from qdet.convert.layouts import LAYOUTS, Layout
from qdet.convert.rename import convert
from qdet.convert.shapes import Shapes
from qdet.convert.transformers import is_of_transformers, to_authors
from qdet.data.image.pipelines import Pipeline
from qdet.data.shards.categories import Categories
from qdet.detectors import DetectorConfig
from qdet.errors import CheckpointError
from qdet.layers.conv.batch_norm import Norm


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """A checkpoint in qdet's own terms."""

    title: str
    """Whose it is."""
    detector: DetectorConfig
    categories: Categories
    pipeline: Pipeline
    """How its authors prepared images."""
    weights: dict[str, Tensor]
    """Under qdet's names: those of `detector.build(len(categories))`."""


def recognize(state: Mapping[str, Tensor], metadata: Metadata, *, all_classes: bool = False) -> Recognized:
    """Recognise the authors of these tensors, the detector they fit and its classes.

    Of heads indexed by COCO's 91 ids, only the rows of its 80 classes are kept, unless `all_classes`.

    Raises:
        CheckpointError: They belong to no known detector, or tensors are missing.
    """
    if is_of_transformers(state):
        state = to_authors(state)
    state = {key.removeprefix("module."): t for key, t in state.items()}
    layout = _layout(state)
    try:
        weights = layout.finish(convert(state, layout.table), metadata)
    except CheckpointError as error:
        raise CheckpointError(f"this looks like {layout.title}, but is {error}") from error
    weights, categories = with_classes(weights, layout, metadata, everything=all_classes)
    shapes = Shapes(weights)
    backbone = _with_norm(shapes.backbone(dilated=bool(metadata.dilated)), shapes, layout.norm)
    detector = layout.config(shapes, metadata, backbone)
    _check_fits(weights, detector, len(categories), layout.title)
    return Recognized(
        title=layout.title,
        detector=detector,
        categories=categories,
        pipeline=layout.pipeline,
        weights=weights,
    )


def _layout(state: Mapping[str, Tensor]) -> Layout:
    for layout in LAYOUTS:
        if all(mark in state for mark in layout.marks) and layout.told_by(state):
            return layout
    known = "".join(f"\n  {layout.title}: {', '.join(layout.marks)}" for layout in LAYOUTS)
    shown = (
        ", ".join(sorted(key for key in state if not key.startswith("backbone."))[:5])
        or "those of a backbone"
    )
    raise CheckpointError(
        f"this is the checkpoint of no known detector: its names are such as {shown}. What was "
        f"looked for:{known}"
    )


def _with_norm(backbone: BackboneConfig, shapes: Shapes, norm: Norm) -> BackboneConfig:
    """Set the norm: group norm where there are no running statistics."""
    if not isinstance(backbone, ResNetConfig | ResNeXtDCNConfig):
        return backbone
    return replace(backbone, norm=norm if "backbone.bn1.running_mean" in shapes else "group")


def _check_fits(weights: Mapping[str, Tensor], detector: DetectorConfig, classes: int, title: str) -> None:
    with torch.device("meta"):
        wanted = detector.build(classes).state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} has no place" for name in weights if name not in wanted]
    problems += [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(t.shape)} in the detector"
        for name, t in wanted.items()
        if name in weights and weights[name].shape != t.shape
    ]
    if problems:
        raise CheckpointError(
            f"this looks like {title} and reads as {detector} with {classes} classes, which it does not fit: "
            + "; ".join(problems[:5])
        )
