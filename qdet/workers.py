"""How many workers share a run: a number of them, or from a least to a most as nodes go and come."""

import re

from qdet.errors import ConfigError


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
    """Return the forward passes in which each of `workers` makes its share of a global batch.

    At `most` workers these are `accumulation`; fewer workers make more passes, so that none of them holds
    more images at a time.
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
