"""The cause of a skipped step: which worker, which images, which layer, and a file to replay it from.

Every worker runs its share again on a copy of the detector, with hooks on all modules. All do so at the same
time, so that none waits long for another, and one of those that find something writes the step to a file.
"""

import shlex
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from qdet.job import Job
from qdet.losses import SetLoss
from qdet.storage import Folder
from qdet.training.checkpointing.contents import settings
from qdet.training.distributed import World
from qdet.training.nonfinite.record import BadStep, Facts, file_name, to_bytes
from qdet.training.nonfinite.trace import Trace, trace_step
from qdet.types import Batch


@dataclass(frozen=True)
class Finding:
    """What one worker found out about a skipped step."""

    rank: int
    host: str
    loss_is_finite: bool
    """Whether its loss was finite in the step itself."""
    first_bad: str | None
    """The first non-finite place when its share was run again; None if all was finite."""
    image_ids: tuple[int, ...]
    """Images that were non-finite there, or all that may have been."""
    note: str = ""
    """Why its share could not be run again, if it could not."""


@dataclass(frozen=True)
class StepInputs:
    """What one rank computes a step from, besides the weights."""

    step: int
    """Steps done before."""
    micro_batches: Sequence[Batch]
    random_seed: int
    """What torch was seeded with, in the first pass or in all."""
    progress: float
    """Share of the training that was done."""
    divisors: Mapping[str, float]
    """What the loss is divided by, as arguments of the loss."""


class Diagnosis:
    """Looks for the cause of skipped steps, and keeps them in the folder of the run, to be replayed."""

    def __init__(self, job: Job, world: World, *, criterion: SetLoss, folder: Folder) -> None:
        self.job, self.world, self.criterion, self.folder = job, world, criterion, folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="qdet-bad-step")
        self._writing: Future[None] | None = None

    def diagnose(self, module: nn.Module, inputs: StepInputs, *, loss_is_finite: bool) -> str:
        """Return what was wrong with a step, in one sentence. Collective.

        Args:
            module: The detector; its weights are still those before the step.
            inputs: What this rank computed the step from.
            loss_is_finite: Whether this rank's loss was.
        """
        weights = gather_weights(module)
        facts = Facts(
            step=inputs.step,
            rank=self.world.rank,
            world_size=self.world.size,
            random_seed=inputs.random_seed,
            progress=inputs.progress,
            divisors=dict(inputs.divisors),
            classes=self.criterion.classes,
            job=settings(self.job),
            image_ids=[batch.image_ids.tolist() for batch in inputs.micro_batches],
        )
        bad = BadStep(facts=facts, weights=weights, batches=inputs.micro_batches)
        finding = self._find(bad, loss_is_finite=loss_is_finite)
        found = self.world.broadcast(self.world.gather(asdict(finding)))
        findings = [Finding(**{**one, "image_ids": tuple(one["image_ids"])}) for one in found]
        suspects = (f for f in findings if not f.loss_is_finite)
        witness = next((f for f in findings if f.first_bad), next(suspects, None))
        if witness is not None and witness.rank == self.world.rank:
            self._write(bad)
        return _sentence(findings, witness, self.folder, inputs.step)

    def close(self) -> None:
        """Wait until the last file is written."""
        self._finish_writing()
        self._pool.shutdown()

    def _find(self, bad: BadStep, *, loss_is_finite: bool) -> Finding:
        everything = tuple(i for ids in bad.facts.image_ids for i in ids)
        rank, host = self.world.rank, socket.gethostname()
        try:
            trace = retrace(self.job, bad, self.criterion, self.world.device)
        except Exception as error:  # whatever it is, the run continues, and other workers wait for this one
            return Finding(rank, host, loss_is_finite, None, everything, f"{type(error).__name__}: {error}")
        if trace.first_bad is None:
            return Finding(rank, host, loss_is_finite, None, everything)
        ids = bad.facts.image_ids[trace.micro_batch]
        rows = trace.first_bad.rows or range(len(ids))
        return Finding(rank, host, loss_is_finite, trace.first_bad.what, tuple(ids[row] for row in rows))

    def _write(self, bad: BadStep) -> None:
        """Write the file on a thread: a slow store must not keep other workers waiting."""
        self._finish_writing()
        self._writing = self._pool.submit(_write, self.folder, bad)

    def _finish_writing(self) -> None:
        if self._writing is None:
            return
        try:
            self._writing.result()
        except Exception as error:  # the run matters more than the evidence
            print(f"warning: a bad step could not be written to {self.folder}: {error}", flush=True)
        self._writing = None


def retrace(job: Job, bad: BadStep, criterion: SetLoss, device: torch.device) -> Trace:
    """Run a bad step again on a new detector of `job` on `device`."""
    facts = bad.facts
    with device:
        detector = job.detector.build(facts.classes)
    detector.load_state_dict(dict(bad.weights))
    detector.to(device)
    detector.progress = facts.progress
    return trace_step(
        detector,
        criterion,
        bad.batches,
        divisors=facts.divisors,
        random_seed=facts.random_seed,
        precision=job.train.precision,
        reseed=job.train.canonical > 0,
    )


def gather_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers on this worker's CPU, gathered if ZeRO-3 shards them. Collective."""
    whole: dict[str, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if hasattr(tensor, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([tensor]):
                whole[name] = tensor.detach().cpu().clone()
        else:
            whole[name] = tensor.detach().cpu().clone()
    return whole


def _write(folder: Folder, bad: BadStep) -> None:
    folder.put(file_name(bad.facts.step, bad.facts.rank), to_bytes(bad))


def _sentence(findings: Sequence[Finding], witness: Finding | None, folder: Folder, step: int) -> str:
    notes = [f"worker {f.rank} could not run it again ({f.note})" for f in findings if f.note]
    suspects = [f for f in findings if f.first_bad] or [f for f in findings if not f.loss_is_finite]
    if not suspects:
        said = "all losses were finite, and computed again all is finite: check memory and links for faults"
    else:
        said = "; ".join(_describe(f) for f in suspects[:3])
        if len(suspects) > 3:
            said += f"; and on {len(suspects) - 3} more workers"
    if witness is not None:
        said += f"; see {shlex.join(['qdet', 'replay', f'{folder}/{file_name(step, witness.rank)}'])}"
    return "; ".join([said, *notes])


def _describe(finding: Finding) -> str:
    where = f"on worker {finding.rank} (host {finding.host})"
    images = ", ".join(map(str, finding.image_ids[:8])) + (", ..." if len(finding.image_ids) > 8 else "")
    if finding.first_bad is None:
        again = "which was finite when computed again: a transient fault, such as of its memory"
        return f"the loss {where}, {again}, with images {images}"
    return f"{finding.first_bad} {where} was the first that is not finite, with images {images}"
