"""COCO AP of a detector over validation shards; each image counts once on any number of ranks."""

import json
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8

from qdet.data.loading.planned_stream import EvalStream
from qdet.data.loading.sample import load_image
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.detectors.detector import Detector
from qdet.evaluation import CocoMetrics, DetectionRows, evaluate, merge
from qdet.inference.evaluate import detect_in_batches
from qdet.inference.runner import DetectorRunner, Forward
from qdet.job import Job
from qdet.tracking import Tracker
from qdet.training.distributed import World
from qdet.training.health.monitor import HealthMonitor
from qdet.training.learner import Learner
from qdet.training.reporting import Reporter, watched
from qdet.types import Batch
from qdet.visualize.boxes import comparison_sheet, png

REHEARSED_PICTURES = 2
"""Images that are drawn before the first step."""


@dataclass
class Evaluator:
    """Evaluates a training now and then, and keeps the last metrics."""

    job: Job
    world: World
    shards: ShardSet
    reporter: Reporter
    tracker: Tracker
    step: int = -1
    """Steps done at the last evaluation; -1 before the first."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Those of the last evaluation, such as `val/AP`."""

    def evaluate(self, step: int, learner: Learner, health: HealthMonitor) -> None:
        """Measure, report and log AP of the average of the weights if there is one. Collective."""
        learner.engine.eval()
        with learner.ema.swapped():
            forward = health.evaluating(learner.engine)
            watch = partial(self._watch, step=step) if self.world.main else iter
            metrics, rows = evaluate_shards(
                learner.detector, forward, self.shards, self.job, self.world, watch=watch
            )
        learner.engine.train()
        self.metrics, self.step = metrics.as_dict("val/"), step
        self.reporter.evaluated(step, self.metrics)
        if self.world.main:
            self.tracker.metrics(self.metrics, step)
            self.tracker.table(metrics.class_rows(), f"per_class/step_{step:06d}.json")
            log_pictures(self.tracker, self.shards, rows, self.job.eval.pictures, step)

    def _watch(self, stream: EvalStream, *, step: int) -> Iterable[Batch]:
        return watched(stream, len(stream), step, self.reporter.evaluating)

    def rehearse(self, learner: Learner) -> None:
        """Do all that an evaluation does, on a batch of images per rank, and keep nothing of it. Collective.

        Random numbers, weights and the modes of modules are afterwards what they were.

        Raises:
            QdetError: The images cannot be evaluated as they are.
        """
        with random_numbers_kept(self.world.device):
            learner.engine.eval()
            with learner.ema.swapped():
                runner = DetectorRunner(learner.detector, learner.engine, self.world.device)
                with closing(
                    cast(
                        Generator[Batch, None, None],
                        iter(_stream(self.shards, self.job, self.world, few=True)),
                    )
                ) as batches:
                    rows = detect_in_batches(runner, islice(batches, 1), self.shards.categories.ids)
            learner.engine.train()
            everything = merge([DetectionRows(**part) for part in self.world.gather_arrays(vars(rows))])
            self.world.on_main(lambda: self._judge(everything))

    def _judge(self, rows: DetectionRows) -> None:
        """Compute, write down and draw what an evaluation of these images would log."""
        places = np.flatnonzero(np.isin(self.shards.index.image_id, rows.seen)).tolist()
        how = self.job.eval
        truth = self.shards.ground_truth(places)
        metrics = evaluate(truth, rows, engine=how.engine, strict=how.strict)
        json.dumps(metrics.class_rows())
        drawn = places[: min(REHEARSED_PICTURES, self.job.eval.pictures)]
        if drawn:
            png(draw_pictures(self.shards, rows, drawn, title="step 0"))


def evaluate_shards(
    detector: Detector,
    forward: Forward,
    shards: ShardSet,
    job: Job,
    world: World,
    *,
    watch: Callable[[EvalStream], Iterable[Batch]] = iter,
) -> tuple[CocoMetrics, DetectionRows]:
    """Detect in every image of `shards` and measure AP. Collective; rank 0 alone returns all detections.

    `forward` runs `detector` in the job's precision; all ranks call it equally often. `watch` sees
    the batches.
    """
    runner = DetectorRunner(detector, forward, world.device)
    rows = detect_in_batches(runner, watch(_stream(shards, job, world)), shards.categories.ids)
    everything = merge([DetectionRows(**part) for part in world.gather_arrays(vars(rows))])

    def judge() -> dict[str, Any]:
        how, truth = job.eval, shards.ground_truth()
        return asdict(evaluate(truth, everything, engine=how.engine, strict=how.strict))

    return CocoMetrics(**world.on_main(judge)), everything


def _stream(shards: ShardSet, job: Job, world: World, *, few: bool = False) -> EvalStream:
    """Return this rank's batches; of `few` of them no more than one is read ahead, without processes."""
    return EvalStream(
        shards,
        job.data.augment,
        StreamConfig(
            batch_size=job.eval.batch_size,
            rank=world.rank,
            world_size=world.size,
            readers=1 if few else job.data.readers,
            reader_kind="threads" if few else job.data.reader_kind,
            prefetch=1 if few else job.data.prefetch,
            device=world.device,
        ),
    )


def log_pictures(tracker: Tracker, shards: ShardSet, rows: DetectionRows, count: int, step: int) -> None:
    """Draw the first `count` images of `shards` with predictions and ground truth, and log the sheet."""
    if count < 1:
        return
    places = range(min(count, len(shards)))
    tracker.picture(draw_pictures(shards, rows, places, title=f"step {step}"), "predictions", step)


def draw_pictures(
    shards: ShardSet, rows: DetectionRows, places: Sequence[int], *, title: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw some images of `shards` with predictions and ground truth side by side."""
    truth = shards.ground_truth(places)
    images = {
        image["id"]: load_image(shards, row) for row, image in zip(places, truth["images"], strict=True)
    }
    return comparison_sheet(images, rows, truth, title=title)


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Restore the generators of Python, NumPy and PyTorch after a `with`."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (libraries draw from it)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
