"""Training settings: the optimizer, its schedule, the batch, the workers."""

import re
from dataclasses import dataclass
from typing import Literal

from qdet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its parameter groups and its schedule."""

    lr: float = 2.5e-5
    """Peak learning rate, at the job's own batch size."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's first and second moments."""
    clip_norm: float = 1.0
    """Largest L2 norm of the whole gradient; 0 turns clipping off."""
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    """(regular expression, factor): parameters with a matching name learn at `lr` times the factor."""
    no_decay: tuple[str, ...] = ()
    """Regular expressions: parameters with a matching name get no weight decay."""
    schedule: Literal["step", "cosine"] = "step"
    """Divide by ten after each of `drop_epochs`, or follow a half cosine down to zero."""
    drop_epochs: tuple[int, ...] = (8, 11)
    """Divide the learning rate by ten after each of these epochs."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly."""
    warmup_ratio: float = 0.001
    """Fraction of the learning rate that the warm-up starts from."""
    ema_decay: float = 0.0
    """Decay per step of the averaged weights that are evaluated and exported; 0 keeps none."""
    scale_lr: Literal["linear", "sqrt", "none"] = "none"
    """How learning rates follow the batch size: by the factor between it and `lr_batch_size`, or its root."""
    lr_batch_size: int | None = None
    """Images per step that `lr` is meant for; with `scale_lr`, by default those of the job file."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot train."""
        if self.lr <= 0:
            raise ConfigError(f"--optim.lr must be above 0, got {self.lr}")
        if self.clip_norm < 0:
            raise ConfigError(f"--optim.clip-norm must be 0 (off) or more, got {self.clip_norm}")
        if self.weight_decay < 0:
            raise ConfigError(f"--optim.weight-decay must be 0 (none) or more, got {self.weight_decay}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"--optim.ema-decay must be at least 0 and below 1, got {self.ema_decay}")
        if self.lr_batch_size is not None and self.lr_batch_size < 1:
            raise ConfigError(f"--optim.lr-batch-size must be at least 1, got {self.lr_batch_size}")
        if self.warmup_steps < 0:
            raise ConfigError(f"--optim.warmup-steps must be 0 or more, got {self.warmup_steps}")

    def batch_factor(self, batch_size: int) -> float:
        """Return what every learning rate is multiplied by at a batch size other than the one it is for.

        Linear: Goyal et al., 2017, https://arxiv.org/abs/1706.02677. Square root: Krizhevsky, 2014,
        https://arxiv.org/abs/1404.5997; AdamW's steps are normalized, for which it is often closer.
        """
        if self.scale_lr == "none" or self.lr_batch_size is None:
            return 1.0
        ratio = batch_size / self.lr_batch_size
        return ratio if self.scale_lr == "linear" else ratio**0.5


MOST_MICRO_BATCHES = 1_009
"""Micro-batches of a step that have random numbers of their own."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how big, in what precision, on how many workers."""

    epochs: int = 12
    """Passes over the training shards."""
    steps: int | None = None
    """Stop after this many optimizer steps instead of `epochs`; schedules are scaled to it."""
    batch_size: int = 16
    """Images per optimizer step over all workers; the number of workers does not change it."""
    accumulation: int = 1
    """Forward and backward passes per worker and step."""
    auto_batch: bool = False
    """Raise `accumulation` until the largest micro-batch fits into the memory of every worker's device."""
    canonical: int = 0
    """Images of a micro-batch, whose gradients are added in one order whichever worker has them: every number
    of workers then learns the same bytes on CPUs; 0 is off."""
    precision: Literal["auto", "bf16", "fp32"] = "bf16"
    """Backbone and decoder arithmetic; geometry, matching, losses and weights stay in fp32. `auto` takes bf16
    where the devices of all workers have it in hardware (CPUs: avx512_bf16), else fp32."""
    zero: Literal[0, 1, 2, 3, "auto"] = "auto"
    """ZeRO stage: what is sharded over the workers (1 optimizer, 2 gradients, 3 weights); `auto` takes the
    lowest whose state fits into a third of the device's memory."""
    kernels: Literal["auto", "torch", "triton"] = "torch"
    """Triton kernels for sampling, mixing, deformable attention, focal loss and assignment: on CUDA devices
    where one passes its check, never, or required.

    No GPU has run them yet, so they are not the default."""
    deterministic: bool = False
    """Make GPU results reproducible bit for bit, as on a CPU; slower."""
    activation_checkpointing: bool = False
    """Recompute decoder stages in the backward pass instead of keeping their activations."""
    workers: int | str = 8
    """Ray workers, one process each; a range such as 2:8 continues with fewer when nodes are lost."""
    accelerator: Literal["auto", "gpu", "cpu"] = "auto"
    """What a worker trains on; `auto` takes a GPU where the cluster has enough of them."""
    gpu_type: str | None = None
    """Kind of GPU that workers train on, as Ray names it, such as A100 or H100; by default any."""
    placement: Literal["pack", "spread"] = "pack"
    """Put workers on as few nodes as possible, or on as many."""
    cpus_per_worker: int = 1
    """CPUs that Ray reserves for a worker; also its number of torch threads on a CPU."""
    seed: int = 0
    """Seeds initialisation, data order and augmentation."""
    eval_every: int = 1
    """Epochs between evaluations; 0 evaluates only at the end."""
    early_stopping: int = 0
    """Evaluations without a better val/AP after which training ends; 0 trains to the last step."""
    hours: float | None = None
    """Hours of the whole run with its restarts, after which it stops with a checkpoint to be resumed from."""
    pause_after: int | None = None
    """Epochs after which the run stops with a checkpoint to be resumed from; schedules stay as they are."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are, in evaluation mode: names such as backbone, or regular expressions."""
    log_every: int = 20
    """Steps between points of the training metrics."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """Checkpoints kept beside the last."""
    keep_best: int = 1
    """Checkpoints of highest AP that are kept as well; with 1 or more, one is written at every evaluation."""
    keep_every: int = 0
    """Epochs between checkpoints that are kept for good; 0 keeps none."""
    max_failures: int = 3
    """Times that the workers are restarted without a new checkpoint in between before the run fails."""
    timeout: int = 60
    """Seconds after which an unanswered collective fails the step."""
    join_timeout: int = 120
    """Seconds that workers wait for each other when they start, and import from a slow disk."""
    hang_after: int = 60
    """Seconds beyond the slowest recent step after which a hanging worker is restarted; 0 disables it."""
    verify_every: int = 0
    """Steps after which a worker computes again the gradient of one micro-batch of another, and both must be
    equal; copies of the state are then compared at every checkpoint. 0 checks nothing."""
    exclude_bad_hosts: bool = False
    """Leave out hosts that `verify_every` found wrong when workers are started again."""
    max_skips: int = 10
    """Steps that may be skipped for a non-finite loss or gradient; three in a row end the run."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot train."""
        for name in (
            "epochs",
            "batch_size",
            "accumulation",
            "cpus_per_worker",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "timeout",
            "join_timeout",
        ):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--train.{flag} must be at least 1, got {getattr(self, name)}")
        for name in (
            "canonical",
            "eval_every",
            "keep_best",
            "keep_every",
            "hang_after",
            "max_failures",
            "max_skips",
            "verify_every",
            "early_stopping",
        ):
            if getattr(self, name) < 0:
                flag = name.replace("_", "-")
                raise ConfigError(f"--train.{flag} must be 0 (none) or more, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--train.steps must be at least 1, got {self.steps}")
        if self.gpu_type is not None and self.accelerator == "cpu":
            raise ConfigError(
                f"--train.gpu-type {self.gpu_type} does not go with --train.accelerator cpu: leave one out"
            )
        self._check_end()
        self._check_verification()
        if self.canonical:
            self._check_canonical()
        else:
            check_batch(self.batch_size, self.workers, self.accumulation)

    def _check_end(self) -> None:
        if self.hours is not None and not self.hours > 0:
            raise ConfigError(f"--train.hours must be above 0, got {self.hours}")
        if self.pause_after is not None and self.pause_after < 1:
            raise ConfigError(f"--train.pause-after must be at least 1, got {self.pause_after}")
        if self.early_stopping and self.eval_every < 1:
            raise ConfigError(
                "--train.early-stopping counts evaluations, and --train.eval-every 0 makes only one, at the "
                "end; give --train.eval-every 1 or more"
            )

    def _check_verification(self) -> None:
        if self.verify_every and self.accelerator != "cpu" and not self.deterministic:
            raise ConfigError(
                f"--train.verify-every {self.verify_every} compares bits, which GPUs only repeat with "
                "--train.deterministic; give that, or --train.accelerator cpu"
            )
        if self.exclude_bad_hosts and not self.verify_every:
            raise ConfigError(
                "--train.exclude-bad-hosts leaves out what --train.verify-every finds: give both, such as "
                "--train.verify-every 500"
            )

    def _check_canonical(self) -> None:
        flag, size = f"--train.canonical {self.canonical}", self.canonical
        if self.zero not in ("auto", 0):
            raise ConfigError(f"{flag} needs --train.zero 0: DeepSpeed adds gradients in an order of its own")
        if self.accelerator != "cpu":
            raise ConfigError(f"{flag} needs --train.accelerator cpu: GPUs of two kinds round differently")
        if self.cpus_per_worker > 1 or self.accumulation > 1:
            raise ConfigError(
                f"{flag} needs --train.cpus-per-worker 1, as threads divide sums among them, and "
                "--train.accumulation 1, as the passes of a worker follow from the micro-batches"
            )
        if self.auto_batch:
            raise ConfigError(f"{flag} fixes the images of a pass, --train.auto-batch chooses them: give one")
        if self.batch_size % size or self.micro_batches > MOST_MICRO_BATCHES:
            raise ConfigError(
                f"{flag} must split --train.batch-size {self.batch_size} evenly, into at most "
                f"{MOST_MICRO_BATCHES} micro-batches"
            )
        few, most = worker_range(self.workers)
        refused = [str(n) for n in range(few, most + 1) if self.micro_batches % n]
        if refused:
            allowed = [str(n) for n in range(1, self.micro_batches + 1) if self.micro_batches % n == 0]
            raise ConfigError(
                f"{flag}: {', '.join(refused)} of --train.workers {self.workers} cannot share "
                f"{self.micro_batches} micro-batches evenly; {', '.join(allowed)} workers can"
            )

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step over all workers if their number and sizes are fixed, else 0."""
        return self.batch_size // self.canonical if self.canonical else 0

    @property
    def least_workers(self) -> int:
        """Fewest workers that the run continues with."""
        return worker_range(self.workers)[0]

    @property
    def most_workers(self) -> int:
        """Workers that the run starts with if the cluster has room."""
        return worker_range(self.workers)[1]

    def passes(self, workers: int) -> int:
        """Forward and backward passes per step when `workers` share it."""
        if self.canonical:
            return self.micro_batches // workers
        return passes_per_step(
            self.batch_size, workers, most=self.most_workers, accumulation=self.accumulation
        )


def worker_range(workers: int | str) -> tuple[int, int]:
    """Return the fewest and the most workers that `workers` means: 8, or "2:8".

    Raises:
        ConfigError: It is neither, or it is empty.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", str(workers))
    if found is None:
        raise ConfigError(
            f"--train.workers must be a number such as 8 or a range such as 2:8, got {workers!r}"
        )
    least, most = int(found[1]), int(found[2] or found[1])
    if least < 1:
        raise ConfigError(f"--train.workers must be at least 1, got {workers}")
    if most < least:
        raise ConfigError(
            f"--train.workers {workers}: the most workers come after the fewest; try {most}:{least}"
        )
    return least, most


def passes_per_step(batch_size: int, workers: int, *, most: int, accumulation: int) -> int:
    """Return the forward passes per step of each of `workers`.

    With `most` workers these are `accumulation`; fewer workers make more passes, so that none holds more
    images at a time.
    """
    at_once = -(-batch_size // (most * accumulation))
    share = -(-batch_size // workers)
    return -(-share // at_once)


def check_batch(batch_size: int, workers: int | str, accumulation: int) -> None:
    """Raise ConfigError where a global batch cannot be shared.

    A fixed number of workers must share it evenly. Of a range at least one number must; where another does
    not, shares differ by one image.
    """
    least, most = worker_range(workers)
    if batch_size < most * accumulation:
        raise ConfigError(
            f"--train.batch-size {batch_size} is too small for --train.workers {workers} times "
            f"--train.accumulation {accumulation}: every worker needs an image in every pass"
        )
    if all(batch_size % (count * accumulation) for count in range(least, most + 1)):
        each = most * accumulation
        below, above = batch_size // each * each, -(-batch_size // each) * each
        raise ConfigError(
            f"--train.batch-size {batch_size} must split evenly over --train.workers {workers} "
            f"times --train.accumulation {accumulation}; a batch of {below} or {above} does"
        )
