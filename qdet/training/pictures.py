"""Pictures of evaluated images: what the detector found beside what is there."""

from qdet.data.image.decode import decode
from qdet.data.shards.shard_set import ShardSet
from qdet.evaluation import DetectionRows
from qdet.tracking import Tracker
from qdet.visualize import comparison_sheet


def log_pictures(tracker: Tracker, shards: ShardSet, rows: DetectionRows, count: int, step: int) -> None:
    """Draw the first `count` images of `shards` with predictions and ground truth, and log the sheet."""
    if count < 1:
        return
    truth = shards.ground_truth(range(min(count, len(shards))))
    images = {
        image["id"]: decode(shards.read_image(row), name=shards.name_of(row))
        for row, image in enumerate(truth["images"])
    }
    tracker.picture(comparison_sheet(images, rows, truth, title=f"step {step}"), "predictions", step)
