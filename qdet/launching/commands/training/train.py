"""`qdet train`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a detector on your images, with settings chosen for them; flags of the job follow `--`.

    For example: qdet train --data cells -- --train.epochs 30 --train.freeze backbone
    """

    data: Annotated[str, arg(metavar="DIR")]
    """Dataset in the format of COCO, YOLO, VOC, LabelMe, CreateML or Hugging Face, or a folder of shards."""
    source: Annotated[str | None, arg(name="from", metavar="MODEL")] = None
    """Model to start from: a run, a checkpoint, a .safetensors; by default demo, which comes with qdet, but
    with --job the weights of its backbone."""
    job: str | None = None
    """Job to train: a file, or qdet:NAME for one that comes with qdet; by default that of the model."""
    val: Annotated[str | None, arg(metavar="DIR")] = None
    """Dataset or shards to validate with, where DIR has no such part."""
    val_share: float | None = None
    """Share of the images to validate with instead; 0.1 if there is nothing else."""
    format: str | None = None
    """Format of the dataset, where it is not clear."""
    out: Path | None = None
    """Folder for the shards; by default data/NAME."""
    local: bool = False
    """Train in this process, without Ray."""

    def run(self, job_flags: Sequence[str]) -> int:
        """Convert, train, and score the test images once."""
        from qdet.launching.commands.training.course import train_on
        from qdet.launching.commands.training.datasets import Request

        flags = ["--local", *job_flags] if self.local else list(job_flags)
        request = Request(
            data=self.data, val=self.val, val_share=self.val_share, format=self.format, out=self.out
        )
        train_on(request, flags, job_file=self.job, source=self.source)
        return 0
