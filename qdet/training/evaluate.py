"""COCO AP of a detector over validation shards; each image counts once on any number of ranks."""

import json
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
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
from qdet.evaluation.coco import distinct_ids, measure_rows
from qdet.evaluation.engines import Measured
from qdet.evaluation.rows import ObjectRows, check_seen, merge_objects
from qdet.evaluation.shares import count_categories, share_categories
from qdet.inference.evaluate import detect_in_batches
from qdet.inference.runner import DetectorRunner, Forward
from qdet.job import EvalConfig, Job
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
        drawn = range(min(self.job.eval.pictures, len(self.shards)))
        parts = self.world.gather_arrays(vars(_in_images(rows, self.shards, drawn)))
        self.metrics, self.step = metrics.as_dict("val/"), step
        self.reporter.evaluated(step, self.metrics)
        if self.world.main:
            self.tracker.metrics(self.metrics, step)
            self.tracker.table(metrics.class_rows(), f"per_class/step_{step:06d}.json")
            if drawn:
                shown = merge([DetectionRows(**part) for part in parts])
                sheet = draw_pictures(self.shards, shown, drawn, title=f"step {step}")
                self.tracker.picture(sheet, "predictions", step)

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
    """Detect in every image of `shards` and measure AP; return it and this rank's detections. Collective.

    `forward` runs `detector` in the job's precision; all ranks call it equally often. `watch` sees
    the batches.
    """
    runner = DetectorRunner(detector, forward, world.device)
    rows = detect_in_batches(runner, watch(_stream(shards, job, world)), shards.categories.ids)
    return _judge_together(rows, shards, job.eval, world), rows


def _judge_together(rows: DetectionRows, shards: ShardSet, how: EvalConfig, world: World) -> CocoMetrics:
    """Measure AP of all ranks' detections, each rank that of its own share of the classes. Collective."""
    images, categories = np.asarray(shards.index.image_id), np.sort(np.array(shards.categories.ids, np.int64))
    world.on_all(rows.check)
    seen = world.gather_arrays({"seen": rows.seen})
    world.on_main(lambda: check_seen(np.concatenate([part["seen"] for part in seen]), distinct_ids(images)))
    mine = range(world.rank, len(shards), world.size)
    objects = world.on_all(lambda: ObjectRows.from_annotations(shards.ground_truth(mine)["annotations"]))

    counts = torch.from_numpy(count_categories(rows.category_ids, categories))
    shares = share_categories(categories, world.total(counts).numpy(), world.size)
    nothing_seen = replace(rows, seen=np.zeros(0, np.int64))
    here = world.exchange_arrays(
        [vars(nothing_seen.select(np.isin(rows.category_ids, share))) for share in shares]
    )
    there = world.exchange_arrays(
        [vars(objects.select(np.isin(objects.category_ids, share))) for share in shares]
    )
    found, truth = merge([DetectionRows(**p) for p in here]), merge_objects([ObjectRows(**p) for p in there])
    engine = "pycocotools" if how.strict else how.engine
    own = world.on_all(lambda: measure_rows(truth, found, np.sort(images), shares[world.rank], engine=engine))
    parts = world.gather_arrays(vars(own))

    def name() -> dict[str, Any]:
        measured = Measured.join([Measured(**part) for part in parts], shares)
        return asdict(CocoMetrics.of(measured, shards.categories.to_coco()))

    return CocoMetrics(**world.on_main(name))


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


def _in_images(rows: DetectionRows, shards: ShardSet, places: Sequence[int]) -> DetectionRows:
    """Return the detections in some images of `shards`."""
    return rows.select(np.isin(rows.image_ids, shards.index.image_id[list(places)]))


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
