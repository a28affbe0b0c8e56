"""Where a run that is broken keeps what, in the folder of its chaos."""

from pathlib import Path

from qdet.launching.chaos.requests import Requests


class RunFiles:
    """The files of the run `name` in `folder`, which also has its data."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    @property
    def run_folder(self) -> Path:
        """Folder of its checkpoints."""
        return self.folder / "store" / self.name

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.folder / f"{self.name}.log"

    @property
    def flips(self) -> Requests:
        """What asks its workers for a flipped bit."""
        return Requests(self.folder / f"{self.name}.flip.json")

    @property
    def lies(self) -> Requests:
        """What asks its store for lies."""
        return Requests(self.folder / f"{self.name}.lies.json")
