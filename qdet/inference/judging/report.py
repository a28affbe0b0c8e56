"""What a model is worth, as numbers, a terminal table, JSON, a page, and in MLflow."""

import io
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group

from qdet.console import open_console
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.evaluation import CocoMetrics, DetectionRows
from qdet.evaluation.as_json import as_plain
from qdet.evaluation.findings import Findings
from qdet.evaluation.html.page import page, wanted_photos
from qdet.evaluation.terminal import show
from qdet.inference.judging.log import log_to_mlflow
from qdet.inference.judging.photographs import read_photos
from qdet.inference.judging.published import PublishedAP
from qdet.storage.atomic import atomic_file

JSON, PAGE = "report.json", "report.html"
"""Names of the files in MLflow."""


@dataclass(frozen=True, eq=False)
class Report:
    """What `qdet.evaluate` returns; `print(report)` shows it.

    >>> report = qdet.evaluate("outputs/RUN", "data/demo/shards/val")
    >>> report.coco.AP, report.findings.errors.cost["missed"]
    >>> report.html("report.html")
    """

    findings: Findings
    """All numbers."""
    rows: DetectionRows = field(repr=False)
    """The detections they are of, in the dataset's ids."""
    shards: ShardSet = field(repr=False)
    """The dataset."""
    step: int = 0
    """Training steps behind the model."""
    published: PublishedAP | None = None
    """The AP that the authors of converted weights give for them."""

    @property
    def coco(self) -> CocoMetrics:
        """COCO's twelve numbers, and AP by class."""
        return self.findings.coco

    def table(self, *, classes: int = 100) -> Group:
        """Build the tables for the terminal; of the classes up to `classes`, the best first."""
        tables = show(self.findings, classes=classes)
        return tables if self.published is None else Group(tables, "", str(self.published))

    def to_dict(self) -> dict[str, Any]:
        """Return all findings as plain values: numbers unrounded, None for what cannot be measured."""
        found = as_plain(self.findings)
        return found if self.published is None else found | {"published": self.published.to_dict()}

    def to_json(self) -> str:
        """Return all findings as one JSON object."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def html(self, path: str | Path) -> Path:
        """Write a page that needs no other file and no network; return its path.

        Raises:
            ConfigError: The file cannot be written.
            DataError: An image that it shows cannot be read.
        """
        content = page(self.findings, read_photos(self.shards, wanted_photos(self.findings)))
        file = Path(path).expanduser()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(file) as out:
                out.write(content.encode())
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror or error}") from error
        return file

    def log(self, run_id: str, *, folder: str = "evaluation") -> None:
        """Log JSON, page and the COCO numbers to an MLflow run, also one that has ended.

        Args:
            run_id: The run.
            folder: Folder of the artifacts, and prefix of the metrics, such as `evaluation/AP`.

        Raises:
            TrackingError: MLflow does not answer, or has no such run.
        """
        with tempfile.TemporaryDirectory(prefix="qdet-report-") as made:
            Path(made, JSON).write_text(self.to_json())
            self.html(Path(made, PAGE))
            metrics = self.coco.as_dict(f"{folder}/")
            log_to_mlflow(run_id, metrics, Path(made), folder=folder, step=self.step)

    def __str__(self) -> str:
        screen = io.StringIO()
        open_console(file=screen, width=120).print(self.table())
        return screen.getvalue()
