"""`qdet prepare`."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.to_shards import ToShards


@dataclass(frozen=True, kw_only=True)
class PrepareCommand(ToShards):
    """Convert a dataset of COCO, YOLO, Pascal VOC, LabelMe, CreateML or Hugging Face to shards."""

    def run(self, _: Sequence[str]) -> int:
        """Convert, and print what was found, written and dropped."""
        from data_prep.to_shards import convert
        from qdet.console import open_console

        convert(self, console=open_console())
        return 0
