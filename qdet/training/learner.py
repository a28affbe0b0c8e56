"""What learns in a training: detector, loss, the engine that updates weights, and their average."""

from dataclasses import dataclass

import torch

from qdet.backbones import load_pretrained
from qdet.detectors.detector import Detector
from qdet.job import Job
from qdet.losses import SetLoss
from qdet.training.checkpointing.resume import Start
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.engine.build import build_engine
from qdet.training.engine.engine import Engine
from qdet.training.freeze import freeze


@dataclass(frozen=True)
class Learner:
    """What a step changes, and what it needs to do so."""

    detector: Detector
    criterion: SetLoss
    engine: Engine
    """Runs and updates the detector."""
    ema: Ema
    """The average of the detector's weights."""


def build_learner(job: Job, world: World, start: Start, *, classes: int) -> Learner:
    """Build what `job` trains, as it is at `start`. Collective.

    Raises:
        QdetError: The weights to start from are missing or do not fit.
    """
    torch.manual_seed(job.train.seed)
    detector = job.detector.build(classes)
    criterion = job.loss.build(classes).to(world.device)
    if not start.load_weights(detector):
        allow = job.store.allow_unverified
        load_pretrained(detector.backbone, job.detector.backbone, allow_unverified=allow)
    freeze(detector, job.train.freeze)
    detector.recompute = job.train.activation_checkpointing
    engine = build_engine(detector, job.train, job.optim, world)
    ema = Ema(detector, job.optim.ema_decay)
    start.load_optimizer(engine, ema)
    return Learner(detector, criterion, engine, ema)
