"""Parts of a detector that stay as they are while the rest is trained."""

import re
from collections.abc import Sequence

from torch import nn

from qdet.detectors.detector import Detector
from qdet.errors import ConfigError


def find_frozen(detector: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the parameters that `patterns` name.

    Args:
        detector: Its children, such as `backbone`, are names; any other pattern is a regular expression that
            is searched for in the names of its parameters, as in `optim.lr_multipliers`.
        patterns: What to freeze.

    Raises:
        ConfigError: A pattern names nothing, or nothing is left to train; the message lists what there is.
    """
    names = [name for name, _ in detector.named_parameters()]
    found: set[str] = set()
    for pattern in patterns:
        matched = _match(detector, pattern, names)
        if not matched:
            raise ConfigError(f"--train.freeze {pattern} names no parameter. {_list_parts(detector)}")
        found |= matched
    if patterns and not any(p.requires_grad and n not in found for n, p in detector.named_parameters()):
        raise ConfigError(
            f"--train.freeze {' '.join(patterns)} leaves nothing to train. {_list_parts(detector)}"
        )
    return found


def freeze(detector: Detector, patterns: Sequence[str]) -> None:
    """Fix what `patterns` name: no gradient, no weight decay, no average, and evaluation mode throughout.

    Raises:
        ConfigError: As `find_frozen`.
    """
    found = find_frozen(detector, patterns)
    for name, parameter in detector.named_parameters():
        if name in found:
            parameter.requires_grad_(False)
    detector.fixed = tuple(
        name
        for name, part in detector.named_modules()
        if (inside := [f"{name}.{p}" for p, _ in part.named_parameters()]) and found.issuperset(inside)
    )


def _match(detector: nn.Module, pattern: str, names: Sequence[str]) -> set[str]:
    if pattern in dict(detector.named_children()):
        return {name for name in names if name.startswith(f"{pattern}.")}
    try:
        return {name for name in names if re.search(pattern, name)}
    except re.error as error:
        raise ConfigError(f"--train.freeze {pattern!r} is no regular expression: {error}") from error


def _list_parts(detector: nn.Module) -> str:
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in detector.named_children()}
    shown = ", ".join(f"{name} ({size:,})" for name, size in sizes.items() if size)
    return f"The detector has, with their parameters: {shown}"
