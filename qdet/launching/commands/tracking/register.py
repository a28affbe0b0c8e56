"""`qdet register`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class RegisterCommand:
    """Give a run's model a name in MLflow's registry, by which it is then loaded: models:/NAME@ALIAS."""

    source: Annotated[Positional[str], arg(metavar="RUN")]
    """The run's folder, its name in outputs, or the id of its MLflow run."""
    name: str
    """Name of the model. MLflow counts the versions of a name."""
    alias: str | None = None
    """Moved to the new version, such as champion."""
    checkpoint: Literal["best", "last"] = "best"
    """Which of the run's models."""

    def run(self, _: Sequence[str]) -> int:
        """Register, and print how the model is used."""
        from qdet.launching.commands.tracking.registration import register

        registered = register(self.source, name=self.name, alias=self.alias, checkpoint=self.checkpoint)
        print(registered.report())
        return 0
