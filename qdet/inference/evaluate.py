"""Detections in every image of a dataset: the loop that training's evaluation and `qdet evaluate` share."""

from collections.abc import Iterable, Sequence

from qdet.evaluation import DetectionRows, merge
from qdet.inference.runner import Runner
from qdet.types import Batch


def detect_in_batches(runner: Runner, batches: Iterable[Batch], category_ids: Sequence[int]) -> DetectionRows:
    """Detect in the valid images of all batches.

    Args:
        runner: The model.
        batches: Prepared images.
        category_ids: The dataset's category id of every label of the model.
    """
    rows = []
    for batch in batches:
        here = batch.to(runner.device, non_blocking=True)
        found = runner(here.images, here.sizes_hw, here.original_hw)
        rows.append(DetectionRows.from_detections(found, batch.image_ids, batch.valid, category_ids))
    return merge(rows)
