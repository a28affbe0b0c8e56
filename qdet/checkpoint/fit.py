"""Check that a checkpoint fits a detector, and load its weights."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from qdet.checkpoint.class_rows import ClassMatch, Shapes, class_axes, move_rows, tensor_shapes
from qdet.config import flatten
from qdet.detectors import DetectorConfig
from qdet.detectors.detector import Detector
from qdet.errors import CheckpointError, ConfigError

_ANY = ("backbone.weights", "backbone.weights_sha256", "backbone.drop_path", "detections")
"""Settings of a detector that say nothing about its weights."""


@dataclass(frozen=True)
class Fit:
    """How the weights of a model become those that a job starts from."""

    config: DetectorConfig
    """The job's detector."""
    classes: ClassMatch
    queries: tuple[str, ...]
    """Tensors that start afresh because the job has another number of queries."""
    differences: tuple[str, ...]
    """Settings of the detector that differ without changing a shape."""

    def describe(self) -> list[str]:
        """Return a line for each thing that is not simply taken over."""
        lines = [] if self.classes.theirs == self.classes.names else [self.classes.describe()]
        if self.queries:
            lines.append(f"queries: all {self.config.queries} start afresh")
        if self.differences:
            lines.append(f"settings that differ from the model's: {'; '.join(self.differences)}")
        return lines

    def load(
        self,
        detector: Detector,
        weights: Mapping[str, Tensor],
        *,
        source: object,
        parts: Sequence[str] = (),
    ) -> None:
        """Load `weights`, or those that `parts` name, into a detector with the job's own initialisation.

        Raises:
            CheckpointError: They are not those that the fit was checked for.
            ConfigError: A part names no tensor.
        """
        fresh = detector.state_dict()
        axes = class_axes(self.config)
        missing = [name for name in axes if name not in weights]
        if missing:
            raise CheckpointError(f"{source} has no {missing[0]}: it is damaged")
        taken = move_rows(weights, fresh, self.classes, axes=axes, agnostic=detector.class_agnostic)
        taken |= {name: fresh[name] for name in self.queries}
        if parts:
            chosen = match_parts(fresh, parts)
            taken = {name: t if name in chosen else fresh[name] for name, t in taken.items()}
        load_weights(detector, taken, source=source)


def check_fit(
    theirs: DetectorConfig,
    their_classes: Sequence[str],
    ours: DetectorConfig,
    classes: Sequence[str],
    *,
    source: object,
) -> Fit:
    """Return how a job can start from a model. Other classes and another number of queries are no hindrance.

    Args:
        theirs: Settings of the model's detector.
        their_classes: Names of its classes, in label order.
        ours: Settings of the job's detector.
        classes: Names of the job's classes, in label order.
        source: The model, for the message.

    Raises:
        CheckpointError: The model is of another detector, or of other sizes.
    """
    if type(theirs) is not type(ours):
        raise CheckpointError(
            f"{source} is a model of {_name(theirs)}, the job trains {_name(ours)}; take a job of "
            f"{_name(theirs)} (qdet zoo lists them), or start from a model of {_name(ours)}"
        )
    here, there = tensor_shapes(ours, len(classes)), tensor_shapes(theirs, len(classes))
    differences = _differences(theirs, ours)
    fresh: tuple[str, ...] = ()
    if here != there:
        fresh = _query_tensors(theirs, ours, len(classes), there)
        if not fresh:
            raise CheckpointError(_explain_sizes(source, differences, here, there))
        differences = tuple(d for d in differences if not d.startswith("--detector.queries "))
    return Fit(ours, ClassMatch(tuple(their_classes), tuple(classes)), fresh, differences)


def match_parts(names: Collection[str], patterns: Sequence[str]) -> set[str]:
    """Return the names in which one of the regular expressions of `store.init_parts` is found.

    Raises:
        ConfigError: One of them is found in no name, or is no regular expression.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            found = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ConfigError(f"--store.init-parts {pattern!r} is no regular expression: {error}") from error
        if not found:
            raise ConfigError(
                f"--store.init-parts {pattern} is in no tensor's name, such as {next(iter(names))}"
            )
        chosen |= found
    return chosen


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], *, source: object) -> None:
    """Copy `weights` into `module`.

    Raises:
        CheckpointError: Names or shapes differ; the message lists them.
    """
    have = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    problems = _compare(have, {name: tuple(t.shape) for name, t in weights.items()})
    if problems:
        raise CheckpointError(f"{source} is a checkpoint of another model: tensors {problems}")
    module.load_state_dict(weights)


def _query_tensors(
    theirs: DetectorConfig, ours: DetectorConfig, classes: int, there: Shapes
) -> tuple[str, ...]:
    """Return the tensors that differ in shape if the number of queries is all that does; else nothing."""
    try:
        same: Any = replace(theirs, queries=ours.queries)
        probed = tensor_shapes(same, classes)
    except (ConfigError, TypeError):  # of anchors and patterns, not a setting of its own
        return ()
    if probed != tensor_shapes(ours, classes) or probed.keys() != there.keys():
        return ()
    return tuple(name for name, shape in probed.items() if shape != there[name])


def _differences(theirs: DetectorConfig, ours: DetectorConfig) -> tuple[str, ...]:
    there, here = flatten(theirs), flatten(ours)
    return tuple(
        f"--detector.{path.replace('_', '-')} is {here.get(path)}, there {there.get(path)}"
        for path in sorted(there.keys() | here.keys())
        if there.get(path) != here.get(path) and path not in _ANY
    )


def _explain_sizes(source: object, differences: Sequence[str], here: Shapes, there: Shapes) -> str:
    return (
        f"{source} is a detector of other sizes: {'; '.join(differences)}. Give the job the model's "
        f"settings, or start from a model with the job's. Tensors {_compare(here, there)}"
    )


def _compare(here: Shapes, there: Shapes) -> str:
    """Return how many tensors differ, and a few of them; empty if none does."""
    missing = sorted(here.keys() - there.keys())
    unknown = sorted(there.keys() - here.keys())
    shapes = [
        f"{name} is {there[name]} there and {here[name]} here"
        for name in sorted(here.keys() & there.keys())
        if here[name] != there[name]
    ]
    return ", ".join(
        f"{len(names)} {what}, such as {'; '.join(names[:3])}"
        for what, names in (("are missing", missing), ("are unknown", unknown), ("differ in shape", shapes))
        if names
    )


def _name(config: DetectorConfig) -> str:
    return type(config).__name__.removesuffix("Config")
