"""`qdet certify`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from qdet.errors import ConfigError

if TYPE_CHECKING:
    from qdet.launching.commands.certification import Plan
    from qdet.zoo.certificates.tables import Claim


@dataclass(frozen=True, kw_only=True)
class CertifyCommand:
    """Train the rows of a published table at demo size with several seeds, and say whether its order holds.

    Every row is a sweep over seeds, which the same command resumes; a row that is done is in a JSON file.
    Without TABLE, print the tables there are.
    """

    table: Annotated[Positional[str | None], arg(metavar="TABLE")] = None
    """Table, such as `adamixer_r50:mixing`, or `race`: all detectors."""
    data: Annotated[Path, arg(metavar="DIR")] = Path("data/demo/shards")
    """Shards to train on and to evaluate, in `train` and `val`; by default those of `make demo`."""
    steps: int = 500
    """Optimizer steps of every training."""
    seeds: int = 5
    """Trainings of every row."""
    results: Annotated[Path, arg(metavar="DIR")] = Path("docs/certificates")
    """Folder with a JSON file for every table."""
    store: Annotated[Path, arg(metavar="DIR")] = Path("outputs")
    """Folder of the runs."""
    concurrent: int = 1
    """Trainings in parallel, if the cluster has room for them."""
    ray_address: str | None = None
    """Ray cluster to join: host:port, auto or local; by default RAY_ADDRESS or the head of `qdet head up`."""
    ray_wait: float = 60.0
    """Seconds to wait for a cluster that is too small."""
    show: bool = False
    """Train nothing: print what is known."""
    page: bool = False
    """Print docs/certificates.md: what is known of all tables."""
    json: bool = False
    """Print the certificate as one JSON object."""

    def run(self, _: Sequence[str]) -> int:
        """Train what is missing, and print the certificate."""
        for name in ("steps", "seeds", "concurrent"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")
        from qdet.launching.commands.certification import paths_of
        from qdet.zoo.certificates import tables
        from qdet.zoo.certificates.page import render_all

        if self.page:
            print(render_all(paths_of(tables.claims(), self.results)), end="")
        elif self.table is None:
            self._list()
        else:
            self._certify(tables.find(self.table))
        return 0

    def _list(self) -> None:
        from qdet.launching.commands.certification import paths_of
        from qdet.zoo.certificates import tables
        from qdet.zoo.certificates.results import Results

        known = paths_of(tables.claims(), self.results)
        for name in tables.claims():
            done = f"{len(Results.read(known[name]).rows)} of " if name in known else ""
            print(f"{name}: {done}{len(tables.find(name).rows)} rows")

    def _certify(self, claim: "Claim") -> None:
        from qdet.launching.commands.certification import measure_table, slug
        from qdet.zoo.certificates.certificate import certify
        from qdet.zoo.certificates.page import render
        from qdet.zoo.certificates.results import Results

        path = self.results / f"{slug(claim.name)}.json"
        if not self.show:
            for results in measure_table(self._plan(claim), path):
                print(f"{len(results.rows)} of {len(claim.rows)} rows are in {path}", flush=True)
        if not path.is_file():
            raise ConfigError(f"{path}: nothing of {claim.name} was measured yet; leave out --show")
        results = Results.read(path)
        if not self.json:
            print(render(claim, results), end="")
            return
        found = certify({row.name: row.published for row in claim.rows}, results.rows)
        print(json.dumps(asdict(found), indent=1))

    def _plan(self, claim: "Claim") -> "Plan":
        from qdet.launching.commands.certification import Plan

        return Plan(
            claim=claim,
            steps=self.steps,
            seeds=self.seeds,
            data=self.data,
            store=str(self.store),
            concurrent=self.concurrent,
            address=self.ray_address,
            wait=self.ray_wait,
        )
