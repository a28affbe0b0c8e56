"""A job as the source of a job file: only what differs from the defaults, with the imports that it needs."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from qdet.job import Job

WIDTH = 100
"""Columns up to which a class is written on one line."""


def render_job(job: Job, about: str) -> str:
    """Return a file that trains `job` when it is run.

    Args:
        job: What it trains.
        about: First line of its docstring.
    """
    classes: dict[str, set[str]] = defaultdict(set)
    source = _render(job, classes, indent=0)
    classes["qdet.launching.cli"].add("launch")
    imports = [
        f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(classes.items())
    ]
    plain = about.replace("\\", "/").replace('"""', "'''")
    head = ["#!/usr/bin/env python", f'"""{plain}"""', "", *imports, ""]
    return "\n".join([*head, f"job = {source}", "", 'if __name__ == "__main__":', "    launch(job)", ""])


def _render(value: Any, classes: Mapping[str, set[str]], *, indent: int) -> str:
    """Return the expression that makes `value`, and note its classes by the module to import them from."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, tuple):
        parts = [_render(one, classes, indent=indent) for one in value]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    if not dataclasses.is_dataclass(value):
        return repr(value)
    kind = type(value)
    classes[kind.__module__].add(kind.__name__)
    given = [
        f"{one.name}={_render(getattr(value, one.name), classes, indent=indent + 4)}"
        for one in dataclasses.fields(value)
        if one.init and not _is_default(value, one)
    ]
    short = f"{kind.__name__}({', '.join(given)})"
    if len(short) + indent <= WIDTH and "\n" not in short:
        return short
    pad = " " * (indent + 4)
    return "\n".join([f"{kind.__name__}(", *(f"{pad}{line}," for line in given), f"{' ' * indent})"])


def _is_default(value: Any, one: "dataclasses.Field[Any]") -> bool:
    if one.default is not dataclasses.MISSING:
        default = one.default
    elif one.default_factory is not dataclasses.MISSING:
        default = one.default_factory()
    else:
        return False
    current = getattr(value, one.name)
    return type(current) is type(default) and current == default
