"""What is found out about a skipped step: which worker, which images, which layer, and a file to replay it.

Every worker runs its share again on a copy of the detector, with hooks on all modules. All do it at the same
time, so that none waits long for another, and one of those that find something bad writes the step down.
"""

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

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
    """What one worker knows of a skipped step."""

    rank: int
    host: str
    lost: bool
    """Whether its loss was not finite in the step itself."""
    first_bad: str | None
    """Where numbers stopped being numbers when its share was run again; None where they did not."""
    image_ids: tuple[int, ...]
    """Images that were bad there, or all that might have been."""
    note: str = ""
    """Why its share could not be run again, where that is so."""


class Incidents:
    """Looks into skipped steps, and keeps what it takes to replay them in the folder of the run."""

    def __init__(self, job: Job, world: World, *, criterion: SetLoss, folder: Folder) -> None:
        self.job, self.world, self.criterion, self.folder = job, world, criterion, folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="qdet-bad-step")
        self._writing: Future[None] | None = None

    def look_into(
        self,
        module: nn.Module,
        batches: Sequence[Batch],
        *,
        step: int,
        random_seed: int,
        progress: float,
        divisors: Mapping[str, float],
        lost: bool,
    ) -> str:
        """Say in one sentence what was wrong with the step after `step` others. Collective.

        Args:
            module: The detector; its weights are still those before the step.
            batches: This worker's micro-batches.
            step: Steps done before.
            random_seed: What torch was seeded with for the step.
            progress: Share of the training that was done.
            divisors: What the loss was divided by.
            lost: Whether this worker's loss was not finite.
        """
        weights = whole_weights(module)
        facts = Facts(
            step=step,
            rank=self.world.rank,
            world_size=self.world.size,
            random_seed=random_seed,
            progress=progress,
            divisors=dict(divisors),
            classes=self.criterion.classes,
            job=settings(self.job),
            image_ids=[batch.image_ids.tolist() for batch in batches],
        )
        bad = BadStep(facts=facts, weights=weights, batches=batches)
        finding = self._find(bad, lost=lost)
        findings = self.world.broadcast(self.world.gather(finding))
        witness = next((f for f in findings if f.first_bad), next((f for f in findings if f.lost), None))
        if witness is not None and witness.rank == self.world.rank:
            self._write(bad)
        return _sentence(findings, witness, self.folder, step)

    def close(self) -> None:
        """Wait until the last file is written."""
        self._settle()
        self._pool.shutdown()

    def _find(self, bad: BadStep, *, lost: bool) -> Finding:
        everything = tuple(i for ids in bad.facts.image_ids for i in ids)
        rank, host = self.world.rank, socket.gethostname()
        try:
            trace = retrace(self.job, bad, self.criterion, self.world.device)
        except Exception as error:  # whatever it is, the run goes on, and others wait for this worker
            return Finding(rank, host, lost, None, everything, f"{type(error).__name__}: {error}")
        if trace.first_bad is None:
            return Finding(rank, host, lost, None, everything)
        ids = bad.facts.image_ids[trace.micro_batch]
        rows = trace.first_bad.rows or range(len(ids))
        return Finding(rank, host, lost, trace.first_bad.what, tuple(ids[row] for row in rows))

    def _write(self, bad: BadStep) -> None:
        """Write the file on a thread of its own: a slow store must not keep other workers waiting."""
        self._settle()
        self._writing = self._pool.submit(_write, self.folder, bad)

    def _settle(self) -> None:
        if self._writing is None:
            return
        try:
            self._writing.result()
        except Exception as error:  # evidence is worth less than the run
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
    )


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers on this worker's CPU, whatever ZeRO made of them. Collective."""
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
    suspects = [f for f in findings if f.first_bad] or [f for f in findings if f.lost]
    if not suspects:
        told = "no loss was bad, and computed again all is finite: look for faulty memory or links"
    else:
        told = "; ".join(_told(f) for f in suspects[:3])
        if len(suspects) > 3:
            told += f"; and on {len(suspects) - 3} workers more"
    if witness is not None:
        told += f"; see python -m qdet replay {folder}/{file_name(step, witness.rank)}"
    return "; ".join([told, *notes])


def _told(finding: Finding) -> str:
    where = f"on worker {finding.rank} (host {finding.host})"
    images = ", ".join(map(str, finding.image_ids[:8])) + (", ..." if len(finding.image_ids) > 8 else "")
    if finding.first_bad is None:
        again = "which was finite when computed again: a fault that came and went, such as of its memory"
        return f"the loss {where}, {again}, with images {images}"
    return f"{finding.first_bad} {where} was the first that is not finite, with images {images}"
