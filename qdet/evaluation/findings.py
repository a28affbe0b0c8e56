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
from qdet.evaluation.matching.greedy import match
from qdet.evaluation.matching.overlaps import find_overlaps
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


def analyse(
    ground_truth: Mapping[str, Any],
    candidate: Candidate,
    *,
    data: str = "",
    seconds: Mapping[str, float] | None = None,
    other: Candidate | None = None,
    strict: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Findings:
    """Find out everything about a model from its detections.

    Args:
        ground_truth: COCO dict with exactly the images to judge by.
        candidate: The model.
        data: Name of the dataset, for the reader.
        seconds: Time that detection took by stage.
        other: A second model to compare with.
        strict: Compute COCO's numbers with pycocotools.
        draws: Draws of the bootstrap.
        seed: Of the bootstrap; the same seed gives the same findings.

    Raises:
        EvaluationError: Detections are not of exactly these images, or not finite.
    """
    coco = evaluate(ground_truth, candidate.rows, strict=strict)
    truth = Truth.from_coco(ground_truth)
    found = Found.from_rows(candidate.rows, truth)
    overlaps = find_overlaps(truth, found)
    matches = match(truth, found, overlaps)
    curves = draw_curves(truth, found, matches)
    point = operate(truth, found, matches, curves)
    ranked = rank(truth, found, matches)
    resampled = resample(ranked, len(truth.image_ids), draws=draws, seed=seed)
    return Findings(
        model=candidate.name,
        data=data,
        images=len(truth.image_ids),
        objects=int(truth.objects().sum()),
        detections=len(found),
        coco=coco,
        intervals=intervals(resampled, truth.names),
        curves=curves,
        slices=slice_dataset(truth, found, overlaps, ranked),
        errors=split_errors(truth, found, overlaps, matches),
        confusion=confuse(truth, found, overlaps, matches, point),
        calibration=calibrate(truth, found, matches),
        labels=find_label_issues(truth, found, overlaps, point),
        worst=find_worst(truth, found, point),
        seconds=dict(seconds or {}),
        comparison=None
        if other is None
        else compare(
            (candidate.name, other.name),
            (coco, evaluate(ground_truth, other.rows, strict=strict)),
            (resampled, _resample_other(truth, other.rows, draws=draws, seed=seed)),
            truth.names,
        ),
    )


def _resample_other(truth: Truth, rows: DetectionRows, *, draws: int, seed: int) -> Resampled:
    found = Found.from_rows(rows, truth)
    ranked: tuple[RankedClass, ...] = rank(truth, found, match(truth, found, find_overlaps(truth, found)))
    return resample(ranked, len(truth.image_ids), draws=draws, seed=seed)
