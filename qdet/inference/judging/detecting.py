"""Detections and times of a model on a dataset, by one process or by several on Ray."""

import os
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import EvalStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ClusterError, ConfigError, QdetError, first_line
from qdet.evaluation import DetectionRows, merge
from qdet.inference.batches import resize_to
from qdet.inference.evaluate import detect_in_batches
from qdet.inference.judging.stopwatch import Stopwatch, TimedRunner
from qdet.inference.judging.tta import MirroredRunner, fuse, view_sizes
from qdet.inference.model import Model


@dataclass(frozen=True, kw_only=True)
class Detecting:
    """How to detect in a dataset."""

    category_ids: tuple[int, ...]
    """The dataset's id of every label of the model."""
    batch_size: int
    readers: int = 2
    """Threads of each process that decode and resize."""
    workers: int = 1
    """Processes; more than one run on Ray. The detections do not depend on it."""
    tta: bool = False
    """Mirrored and in several sizes, fused."""
    size: int | None = None
    """Short side in pixels that images are resized to; by default that of the model's evaluation."""


@dataclass(frozen=True)
class Detected:
    """What was found, and the seconds it took by stage, those of all processes added up."""

    rows: DetectionRows
    seconds: dict[str, float]


def detect(model: Model, shards: ShardSet, how: Detecting) -> Detected:
    """Detect in all images.

    Raises:
        DataError: An image cannot be read.
        ClusterError: Ray does not start, or a worker died.
    """
    parts = [_detect_part(model, shards, how, 0)] if how.workers == 1 else _on_ray(model, shards, how)
    seconds: Counter[str] = Counter()
    for _, took in parts:
        seconds.update(took)  # pyright: ignore[reportArgumentType]
    views = [merge(of_all) for of_all in zip(*(views for views, _ in parts), strict=True)]
    return Detected(views[0] if len(views) == 1 else fuse(views), dict(seconds))


def _detect_part(
    model: Model, shards: ShardSet, how: Detecting, rank: int
) -> tuple[list[DetectionRows], dict[str, float]]:
    """Detect in one worker's share of the batches; return a result per view."""
    watch = Stopwatch(model.runner.device)
    straight = TimedRunner(model.runner, watch)
    augment = resize_to(model.description.augment, how.size)
    sizes: Sequence[AugmentConfig] = view_sizes(augment) if how.tta else (augment,)
    views = []
    for size in sizes:
        for runner in (straight, MirroredRunner(straight)) if how.tta else (straight,):
            batches = watch.batches(EvalStream(shards, size, _stream(model, how, rank)))
            views.append(detect_in_batches(runner, batches, how.category_ids))
    return views, watch.seconds


def _stream(model: Model, how: Detecting, rank: int) -> StreamConfig:
    return StreamConfig(
        batch_size=how.batch_size,
        rank=rank,
        world_size=how.workers,
        readers=how.readers,
        device=model.runner.device,
    )


def _start_ray() -> None:
    """Start a Ray of this process's own, on loopback behind a token that only its workers get.

    Without one, Ray writes a token into the home folder, readable by all.
    """
    import ray

    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False)


def _on_ray(
    model: Model, shards: ShardSet, how: Detecting
) -> list[tuple[list[DetectionRows], dict[str, float]]]:
    """Run a Ray task per worker, as many at a time as there are CPUs or GPUs for.

    A task computes with as many threads as this process would, so that sums are added in the same order.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    if not ray.is_initialized():
        _start_ray()
    threads = torch.get_num_threads()

    def work(model: Model, shards: ShardSet, rank: int) -> tuple[list[DetectionRows], dict[str, float]]:
        torch.set_num_threads(threads)
        return _detect_part(model, shards, how, rank)

    task = ray.remote(work).options(num_gpus=int(model.runner.device.type == "cuda"), max_retries=1)
    try:
        shared, data = ray.put(model), ray.put(shards)
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"--workers {how.workers}: {model.description.source} cannot be sent to other processes; give a "
            "run, a checkpoint or a .safetensors file, or --workers 1"
        ) from error
    try:
        return ray.get([task.remote(shared, data, rank) for rank in range(how.workers)])
    except RayTaskError as error:
        if isinstance(error.cause, QdetError):
            raise error.cause from None
        raise
    except RayError as error:
        raise ClusterError(f"a worker of the evaluation died: {first_line(error)}") from error
