"""Every so many steps, one rank computes again what another has computed (`--train.verify-every`).

A step is a pure function of weights, images and random numbers, so that on equal machines both gradients are
equal bit for bit. Digests are compared after the backward passes and before the update. Where they differ,
all ranks compute the micro-batch once more, which says who is wrong, and the step is made again.

With ZeRO-3 each pass gathers weights, in which all ranks take part: there all of them compute the micro-batch
again. What one rank alone holds (ZeRO 1 to 3) is digested after the update before a check, and in the check.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from torch import Tensor

from qdet.detectors.detector import Detector
from qdet.errors import ClusterError, CorruptionError, StorageError
from qdet.job import Job
from qdet.losses import SetLoss
from qdet.storage import Folder
from qdet.training.corruption.copies import digest_copies, digest_own
from qdet.training.corruption.exchange import gather_digests, send_bytes, share_bytes
from qdet.training.corruption.recompute import GradientWatch, MicroBatch, compute_again, read_random_state
from qdet.training.corruption.record import FILE, Incident, add_incident, bad_hosts, is_bad, read_incidents
from qdet.training.corruption.settle import Verdict, find_changed, find_odd, settle
from qdet.training.corruption.turns import Turn, turn_of_step
from qdet.training.distributed import World
from qdet.training.ema import Ema
from qdet.training.engine.engine import Engine
from qdet.types import Batch


class Verifier:
    """Checks the gradients of one training, and that its ranks hold equal copies. All methods are collective.

    Constructing it raises a ClusterError where the job leaves out a host of these workers.

    Args:
        job: The job.
        world: The ranks.
        detector: What is trained, inside the engine.
        criterion: The loss.
        engine: Runs the detector.
        folder: That of the run, for the record.
        host: What this rank's machine is called there; None: by its host name.
    """

    def __init__(
        self,
        job: Job,
        world: World,
        *,
        detector: Detector,
        criterion: SetLoss,
        engine: Engine,
        folder: Folder,
        host: str | None = None,
    ) -> None:
        self.job, self.world, self.detector, self.criterion = job, world, detector, criterion
        self.engine, self._folder = engine, folder
        self._hosts: list[str] = []
        self._found = 0
        self._own: Tensor | None = None
        self.sharded = engine.state.stage == 3
        """Whether all ranks must compute at the same time."""
        if job.train.verify_every:
            self._own = digest_own(engine.state)
            self._hosts = world.broadcast(world.gather(host or socket.gethostname()))
            self._found = world.on_main(self._look_back)

    def begin(self, step: int, passes: int) -> "Check | None":
        """Return the check of the step after `step` others; None where nothing is checked in it."""
        turn = turn_of_step(step, self.job.train.verify_every, ranks=self.world.size, passes=passes)
        return None if turn is None else Check(self, step, turn)

    def remember_own(self, step: int) -> None:
        """Digest what this rank alone holds, after `step` steps, if the next one is checked."""
        every = self.job.train.verify_every
        if every and (step + 1) % every == 0:
            self._own = digest_own(self.engine.state)

    def kept_own(self) -> bool:
        """Return whether what this rank alone holds is bit for bit what it was after the last update."""
        now = digest_own(self.engine.state)
        return now is None or self._own is None or int(now) == int(self._own)

    def compare_copies(self, step: int, ema: Ema) -> None:
        """Compare what every rank holds a copy of, after `step` steps, before it is saved.

        Raises:
            CorruptionError: Copies differ: training resumes from the last checkpoint.
        """
        if self.job.train.verify_every and self.world.size > 1:
            digests = gather_digests(self.world, digest_copies(self.engine.state, ema))
            verdict = find_odd([digest for (digest,) in digests])
            if verdict is not None:
                self.report(step, "the copy of weights and optimizer state", verdict)

    def compute_again(self, content: bytes | None, divisors: Mapping[str, float]) -> int:
        """Return the digest of the gradient of a micro-batch; 0 on a rank that has none."""
        if content is None:
            return 0
        self.engine.release()
        found = compute_again(
            self.detector,
            self.criterion,
            MicroBatch.from_bytes(content),
            divisors=divisors,
            loss_divisor=self.engine.loss_divisor,
            bf16=self.job.train.precision == "bf16",
        )
        self.engine.release()
        return found

    def report(self, step: int, what: str, verdict: Verdict) -> None:
        """Print and record what was found.

        Raises:
            CorruptionError: It does not go away when computed again.
        """
        hosts = tuple(dict.fromkeys(self._hosts[rank] for rank in verdict.suspects))
        incident = Incident(
            step=step, what=what, ranks=verdict.suspects, hosts=hosts, decided=verdict.decided
        )
        self._found += 1
        if self.world.main:
            print(f"silent corruption: {incident}", flush=True)
            self._record(incident)
        if verdict.lasting:
            left_out = verdict.decided and self.job.train.exclude_bad_hosts
            otherwise = "" if left_out else ", or leave the host out (--train.exclude-bad-hosts)"
            raise CorruptionError(
                f"silent corruption: {incident}. Training resumes from the last checkpoint; have memory and "
                f"processors there tested{otherwise}"
            )

    def metrics(self) -> dict[str, float]:
        """Return how often something was found in the whole run."""
        return {"train/corruptions": float(self._found)} if self.job.train.verify_every else {}

    def _look_back(self) -> int:
        """Return how many incidents the run had so far.

        Raises:
            ClusterError: Some were on a host of this training, which the job leaves out.
        """
        incidents = read_incidents(self._folder)
        known = bad_hosts(incidents)
        bad = sorted({host for host in self._hosts if is_bad(host, known)})
        if bad and self.job.train.exclude_bad_hosts:
            raise ClusterError(
                f"--train.exclude-bad-hosts: {', '.join(bad)} computed something wrong in this run "
                f"({self._folder}/{FILE}), and workers were started there; start them elsewhere, or drop "
                "--train.exclude-bad-hosts"
            )
        return len(incidents)

    def _record(self, incident: Incident) -> None:
        try:
            add_incident(self._folder, incident)
        except (OSError, StorageError) as error:  # the run matters more than its record
            print(f"warning: corruption could not be recorded in {self._folder}: {error}", flush=True)


class Check:
    """The check of one step, which may be made more than once."""

    def __init__(self, verifier: Verifier, step: int, turn: Turn) -> None:
        self.verifier, self.step, self.turn = verifier, step, turn
        parameters = [p for p in verifier.detector.parameters() if p.requires_grad]
        self._watch = GradientWatch(parameters)
        self._random: Mapping[str, Tensor] = {}
        self._made_again = False

    def watching(self, number: int) -> AbstractContextManager[None]:
        """Return what surrounds the pass of this rank's micro-batch `number`."""
        mine = self.verifier.world.rank == self.turn.checked and number == self.turn.number
        return self._watching() if mine else nullcontext()

    def passed(self, micro_batches: Sequence[Batch], divisors: Mapping[str, float]) -> bool:
        """Compare the watched gradient with one computed again; False if the step is to be made again.

        Collective, between the last backward pass and the update.

        Raises:
            CorruptionError: The two differ for good, or did so before, or a rank's own state has changed.
        """
        world, turn, everywhere = self.verifier.world, self.turn, self.verifier.sharded
        mine = None
        if world.rank == turn.checked:
            mine = MicroBatch(micro_batches[turn.number], self._random).to_bytes()
        if everywhere:
            sent = share_bytes(world, mine, source=turn.checked)
        else:
            sent = send_bytes(world, mine, source=turn.checked, target=turn.checking)
        firsts, seconds = self._compute_again(sent, divisors, first=0 if mine is None else self._watch.read())
        first = firsts[turn.checked]
        second = {rank: seconds[rank] for rank in (range(world.size) if everywhere else [turn.checking])}
        if {*second.values()} == {first}:
            return True
        shared = sent if everywhere else share_bytes(world, mine, source=turn.checked)
        _, again = self._compute_again(shared, divisors)
        verdict = settle(turn.checked, first, second, again)
        made_again, self._made_again = self._made_again, True
        self.verifier.report(
            self.step + 1,
            f"the gradient of rank {turn.checked}",
            replace(verdict, lasting=verdict.lasting or made_again),
        )
        return False

    def _compute_again(
        self, content: bytes | None, divisors: Mapping[str, float], *, first: int = 0
    ) -> tuple[list[int], list[int]]:
        """Return all ranks' `first` digests and those they compute now. Collective.

        Raises:
            CorruptionError: A rank's own state has changed since the last update.
        """
        verifier = self.verifier
        second = verifier.compute_again(content, divisors)
        table = gather_digests(verifier.world, first, second, int(verifier.kept_own()))
        firsts, seconds, kept = (list(column) for column in zip(*table, strict=True))
        changed = find_changed(kept)
        if changed is not None:
            verifier.report(self.step + 1, "the share of weights and optimizer state", changed)
        return firsts, seconds

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._random = read_random_state(self.verifier.world.device)
        with self._watch.watching():
            yield
