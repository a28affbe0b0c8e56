"""Detections in every image of a dataset: the loop that training's evaluation and `qdet evaluate` share."""

from collections.abc import Iterable, Sequence

from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import EvalStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
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


def detect_in_shards(
    runner: Runner,
    shards: ShardSet,
    category_ids: Sequence[int],
    *,
    augment: AugmentConfig,
    batch_size: int,
    readers: int = 2,
    rank: int = 0,
    world_size: int = 1,
) -> DetectionRows:
    """Detect in one of `world_size` parts of a dataset; the numbers do not depend on how many there are.

    Args:
        runner: The model.
        shards: The dataset.
        category_ids: The dataset's category id of every label of the model.
        augment: How images are resized and padded.
        batch_size: Images per forward pass.
        readers: Threads that decode and resize.
        rank: Which part.
        world_size: Number of parts.
    """
    config = StreamConfig(
        batch_size=batch_size, rank=rank, world_size=world_size, readers=readers, device=runner.device
    )
    return detect_in_batches(runner, EvalStream(shards, augment, config), category_ids)
