"""What every rank holds a copy of, and a whole detector where none does (ZeRO-3)."""

import torch

from qdet.checkpoint.tensor_digest import combine, digest
from qdet.detectors.detector import Detector
from qdet.job import Job
from qdet.training.ema import Ema
from qdet.training.engine.sharded_state import ShardedState
from qdet.training.freeze import freeze
from qdet.training.nonfinite.diagnose import gather_weights


def digest_copies(state: ShardedState, ema: Ema) -> int:
    """Return the digest of what must be equal on all ranks.

    Weights, buffers, moments and average with ZeRO-0; all but the moments with 1 and 2; buffers with 3.
    """
    copies = [*state.copies(), *(ema.averages if state.stage < 3 else ())]
    return int(combine(digest(tensor) for tensor in copies)) if copies else 0


def whole_detector(job: Job, detector: Detector, classes: int, *, here: bool) -> Detector | None:
    """Return `detector`; with ZeRO-3 a whole copy of it where one is needed `here`, else None (collective).

    The copy computes as the original does: its random initialisation leaves torch's generators alone.
    """
    if job.train.zero != 3:
        return detector
    weights = gather_weights(detector)
    if not here:
        return None
    device = next(iter(detector.parameters())).device
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []), device:
        copy = job.detector.build(classes)
    copy.load_state_dict(weights)
    freeze(copy, job.train.freeze)
    copy.recompute, copy.progress = detector.recompute, detector.progress
    copy.to(device).train()
    return copy
