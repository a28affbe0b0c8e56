"""`qdet show`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class ShowCommand:
    """Show a run: its job, status, MLflow run and checkpoints, which `qdet checkpoint` also verifies."""

    named: Annotated[
        Positional[str],
        arg(metavar="RUN", help="A run, by its name or a part of it, folder or URL."),
    ]
    json: bool = False
    """Print one JSON object, numbers unrounded."""

    def run(self, _: Sequence[str]) -> int:
        """Print what its folder says."""
        from qdet.console import open_console
        from qdet.launching.commands.runs import listing

        found = listing.find(self.named)
        if self.json:
            print(listing.as_json(found))
        else:
            listing.show_one(found, open_console())
        return 0
