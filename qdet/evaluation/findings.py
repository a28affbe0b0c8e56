"""Everything that is found out about a model from its detections: numbers alone, no pictures, no layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdet.evaluation.analysis.bootstrap import DRAWS, Intervals, Resampled, intervals, resample
from qdet.evaluation.analysis.calibration import Calibration, calibrate
from qdet.evaluation.analysis.comparison import Comparison, compare
from qdet.evaluation.analysis.confusion import Confusion, confuse
from qdet.evaluation.analysis.curves import Curves, draw_curves
from qdet.evaluation.analysis.error_kinds import ErrorKinds, split_errors
from qdet.evaluation.analysis.label_issues import LabelIssues, find_label_issues
from qdet.evaluation.analysis.operating_point import operate
from qdet.evaluation.analysis.slices import Slices, slice_dataset
from qdet.evaluation.analysis.worst import WorstImages, find_worst
from qdet.evaluation.coco import CocoMetrics, evaluate
from qdet.evaluation.matching.average_precision import RankedClass, rank
from qdet.evaluation.matching.columns import Found, Truth
from qdet.evaluation.matching.greedy import Matches, match
from qdet.evaluation.matching.overlaps import Overlaps, find_overlaps
from qdet.evaluation.rows import DetectionRows


@dataclass(frozen=True)
class Findings:
    """What `analyse` found."""

    model: str
    data: str
    images: int
    objects: int
    """Those that count: without crowds."""
    detections: int
    """At most 100 per image and class, as COCO counts them."""
    coco: CocoMetrics
    intervals: Intervals
    curves: Curves
    slices: Slices
    errors: ErrorKinds
    confusion: Confusion
    calibration: Calibration
    labels: LabelIssues
    worst: WorstImages
    seconds: Mapping[str, float]
    """Time by stage over all images."""
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Candidate:
    """A model to be judged: its name, and its detections in the images."""

    name: str
    rows: DetectionRows


@dataclass(frozen=True, kw_only=True)
class Options:
    """How `analyse` computes."""

    strict: bool = False
    """Compute COCO's numbers with pycocotools."""
    draws: int = DRAWS
    """Draws of the bootstrap."""
    seed: int = 0
    """Of the bootstrap; the same seed gives the same findings."""


def analyse(
    ground_truth: Mapping[str, Any],
    candidate: Candidate,
    *,
    other: Candidate | None = None,
    data: str = "",
    seconds: Mapping[str, float] | None = None,
    options: Options | None = None,
) -> Findings:
    """Find out everything about a model from its detections.

    Args:
        ground_truth: COCO dict with exactly the images to judge by.
        candidate: The model.
        other: A second model to compare with.
        data: Name of the dataset, for the reader.
        seconds: Time that detection took by stage.
        options: Those of the computation.

    Raises:
        EvaluationError: Detections are not of exactly these images, or not finite.
    """
    options = options or Options()
    truth = Truth.from_coco(ground_truth)
    first = _match(ground_truth, truth, candidate.rows, options)
    found, overlaps, matches = first.found, first.overlaps, first.matches
    curves = draw_curves(truth, found, matches)
    point = operate(truth, found, matches, curves)
    comparison = None
    if other is not None:
        second = _match(ground_truth, truth, other.rows, options)
        metrics, resampled = (first.coco, second.coco), (first.resampled, second.resampled)
        comparison = compare((candidate.name, other.name), metrics, resampled, truth.names)
    return Findings(
        model=candidate.name,
        data=data,
        images=len(truth.image_ids),
        objects=int(truth.objects().sum()),
        detections=len(found),
        coco=first.coco,
        intervals=intervals(first.resampled, truth.names),
        curves=curves,
        slices=slice_dataset(truth, found, overlaps, first.ranked),
        errors=split_errors(truth, found, overlaps, matches),
        confusion=confuse(truth, found, overlaps, matches, point),
        calibration=calibrate(truth, found, matches),
        labels=find_label_issues(truth, found, overlaps, point),
        worst=find_worst(truth, found, point),
        seconds=dict(seconds or {}),
        comparison=comparison,
    )


@dataclass(frozen=True)
class _Matched:
    """A model's detections, matched."""

    coco: CocoMetrics
    found: Found
    overlaps: Overlaps
    matches: Matches
    ranked: tuple[RankedClass, ...]
    resampled: Resampled


def _match(ground_truth: Mapping[str, Any], truth: Truth, rows: DetectionRows, options: Options) -> _Matched:
    coco = evaluate(ground_truth, rows, strict=options.strict)
    found = Found.from_rows(rows, truth)
    overlaps = find_overlaps(truth, found)
    matches = match(truth, found, overlaps)
    ranked = rank(truth, found, matches)
    resampled = resample(ranked, len(truth.image_ids), draws=options.draws, seed=options.seed)
    return _Matched(coco, found, overlaps, matches, ranked, resampled)
