"""A sweep's space in the terms of Ray Tune."""

from collections.abc import Mapping
from typing import Any

from qdet.search import Each, LogUniform, Space, Uniform


def tune_space(spaces: Mapping[str, Space]) -> dict[str, Any]:
    """Return a sweep's space as Ray Tune's search space, by dotted path."""
    from ray import tune

    def convert(space: Space) -> Any:
        if isinstance(space, Uniform):
            return tune.uniform(space.low, space.high)
        if isinstance(space, LogUniform):
            return tune.loguniform(space.low, space.high)
        if isinstance(space, Each):
            return tune.grid_search(list(space.options))
        return tune.choice(list(space.options))

    return {path: convert(space) for path, space in spaces.items()}
