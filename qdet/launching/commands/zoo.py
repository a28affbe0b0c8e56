"""`qdet zoo`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ZooCommand:
    """Print every published model: its size here and in its paper, its AP there, and its command."""

    json: bool = False
    """Print a list of objects for programs instead of a table."""
    deviations: bool = False
    """Print docs/deviations.md: where the jobs differ from their authors' configurations, and why."""

    def run(self, _: Sequence[str]) -> int:
        """Print the table."""
        from qdet import zoo
        from qdet.zoo.deviation_page import render

        if self.deviations:
            print(render(model.job for model in zoo.models()), end="")
            return 0
        print(json.dumps(zoo.as_json(), indent=1) if self.json else zoo.table())
        return 0
