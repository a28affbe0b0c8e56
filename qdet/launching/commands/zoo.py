"""`qdet zoo`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from qdet.errors import ConfigError
from qdet.launching.commands.overwriting import replaced


@dataclass(frozen=True, kw_only=True)
class ZooCommand:
    """Print every published model: its size here and in its paper, its AP there, and its command.

    `qdet zoo fetch NAME` downloads its authors' file and converts it into a folder that all commands load.
    """

    action: Positional[Literal["list", "fetch"]] = "list"
    """Print the models, or fetch the weights of one."""
    name: Annotated[Positional[str | None], arg(metavar="NAME")] = None
    """Model to fetch, as in the list."""
    to: Annotated[Path | None, arg(metavar="DIR")] = None
    """New folder to write it to; by default weights/NAME."""
    file: Annotated[Path | None, arg(metavar="FILE")] = None
    """The authors' file, where it was downloaded by hand."""
    file_sha256: Annotated[str | None, arg(metavar="DIGEST")] = None
    """SHA-256 that the file must have, or its first digits; by default the published one."""
    force: bool = False
    """Overwrite what is there already."""
    json: bool = False
    """Print a list of objects for programs instead of a table."""
    count: bool = False
    """Count parameters and MACs of every model anew, which takes minutes; print qdet/zoo/counts.json."""
    deviations: bool = False
    """Print docs/deviations.md: where the jobs differ from their authors' configurations, and why."""

    def run(self, _: Sequence[str]) -> int:
        """Print the table, or fetch a model."""
        if self.action == "fetch":
            return self._fetch()
        from qdet import zoo
        from qdet.zoo.deviation_page import render

        if self.count:
            from qdet.zoo.counts import render as count_all

            print(count_all(zoo.models()), end="")
            return 0
        if self.deviations:
            print(render(model.job for model in zoo.models()), end="")
            return 0
        print(json.dumps(zoo.as_json(), indent=1) if self.json else zoo.table())
        return 0

    def _fetch(self) -> int:
        if self.name is None:
            raise ConfigError("qdet zoo fetch needs the name of a model; `qdet zoo` lists them")
        from qdet.checkpoint.manifest import MANIFEST
        from qdet.launching.commands import conversion
        from qdet.launching.commands.models.fetching import fetch, find

        find(self.name)
        folder = self.to or Path("weights") / self.name
        with replaced(folder, sign=MANIFEST, force=self.force) as new:
            found = fetch(self.name, new, file=self.file, sha256=self.file_sha256, shown=folder)
        print(conversion.report(found, folder))
        return 0
