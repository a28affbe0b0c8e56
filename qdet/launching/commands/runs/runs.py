"""`qdet runs`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg


@dataclass(frozen=True, kw_only=True)
class RunsCommand:
    """List the runs of a store: job, status, step, best AP, when, size."""

    store: Annotated[str, arg(metavar="DIR")] = "outputs"
    """Folder or URL, the --store.path of the runs."""
    json: bool = False
    """Print one JSON object, numbers unrounded."""

    def run(self, _: Sequence[str]) -> int:
        """Print them, the latest last."""
        from qdet.console import open_console
        from qdet.launching.commands.runs import listing

        runs = listing.collect(self.store)
        if self.json:
            print(listing.as_json(runs))
        else:
            wide = None if sys.stdout.isatty() else 200  # in a pipe a run keeps its line
            listing.show_list(runs, self.store, open_console(width=wide))
        return 0
