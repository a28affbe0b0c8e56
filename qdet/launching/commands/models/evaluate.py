"""`qdet evaluate`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, arg

from qdet.launching.commands.models.model_flags import ModelFlags, ModelSource
from qdet.launching.commands.overwriting import check_free

if TYPE_CHECKING:
    from qdet.inference.judging.report import Report


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Measure a model on a dataset: COCO AP, curves, kinds of error, labels to check, the worst images."""

    model: ModelSource
    data: Annotated[str | None, arg(metavar="SHARDS")] = None
    """Folder or URL of shards with ground truth; by default those that the job evaluated on."""
    json: bool = False
    """Print one JSON object with unrounded numbers instead of tables."""
    html: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write everything, with pictures, to this file, which needs no other file and no network."""
    force: bool = False
    """Overwrite what is there already."""
    compare: Annotated[str | None, arg(metavar="MODEL")] = None
    """A second model to compare with, given as the first."""
    tta: bool = False
    """Test-time augmentation: detect in mirrored images and three sizes, and fuse what is found."""
    size: int | None = None
    """Short side in pixels that images are resized to; by default that of the model's evaluation."""
    mlflow: Annotated[str | None, arg(metavar="RUN_ID")] = None
    """Id of an MLflow run to log the report to."""
    batch: int | None = None
    """Images per forward pass; by default as in the job's evaluation, for the same numbers."""
    workers: int = 1
    """Processes; more than one run on Ray, with the same results."""
    readers: int = 2
    """Threads of each process that decode and resize."""
    subset: bool = False
    """Evaluate the classes that model and data share, where they are not the same."""
    strict: bool = False
    """Compute COCO's numbers with pycocotools, the slower reference."""
    classes: int = 100
    """Most classes in the table."""
    load: OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)

    def run(self, _: Sequence[str]) -> int:
        """Evaluate and show the report."""
        from qdet.inference.judging.judge import evaluate

        if self.html is not None:
            check_free(self.html, flag="--html", force=self.force)
        if self.workers > 1:
            from qdet.launching.ray_backend.connect import connect

            connect()
        report = evaluate(
            self.load.open(self.model),
            self.data,
            compare=None if self.compare is None else self.load.open(self.compare),
            tta=self.tta,
            size=self.size,
            batch=self.batch,
            workers=self.workers,
            readers=self.readers,
            subset=self.subset,
            strict=self.strict or None,
        )
        self._show(report)
        return 0

    def _show(self, report: "Report") -> None:
        if self.json:
            print(report.to_json())
        else:
            from qdet.console import open_console

            open_console().print(report.table(classes=self.classes))
            if self.html is None:
                print("curves and pictures in one file: the same command with --html report.html")
        if self.html is not None:
            print(f"wrote {report.html(self.html)}", file=sys.stderr)
        if self.mlflow is not None:
            report.log(self.mlflow)
            print(f"logged to MLflow run {self.mlflow}", file=sys.stderr)
