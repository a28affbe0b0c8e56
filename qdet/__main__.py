"""The `qdet` commands: start Ray, submit jobs, use what they trained. `python -m qdet` is the same."""

import os
import sys
from collections.abc import Sequence
from typing import Protocol

import tyro

from qdet.launching.commands.chaos import ChaosCommand
from qdet.launching.commands.checkpoint import CheckpointCommand
from qdet.launching.commands.convert import ConvertCommand
from qdet.launching.commands.demo import DemoCommand
from qdet.launching.commands.head import HeadCommand
from qdet.launching.commands.models.evaluate import EvaluateCommand
from qdet.launching.commands.models.export import ExportCommand
from qdet.launching.commands.models.predict import PredictCommand
from qdet.launching.commands.models.serve import ServeCommand
from qdet.launching.commands.models.visualize import VisualizeCommand
from qdet.launching.commands.order import OrderCommand
from qdet.launching.commands.replay import ReplayCommand
from qdet.launching.commands.run import RunCommand
from qdet.launching.commands.submit import SubmitCommand
from qdet.launching.commands.tracking.register import RegisterCommand
from qdet.launching.commands.tracking.sync_tracking import SyncTrackingCommand
from qdet.launching.commands.tracking.ui import UiCommand
from qdet.launching.commands.zoo import ZooCommand
from qdet.launching.exit_status import exit_on_user_error
from qdet.storage.proxies import exempt_loopback_here


class Command(Protocol):
    """A dataclass of a command's arguments."""

    def run(self, job_flags: Sequence[str], /) -> int:
        """Run the command and return its exit code; `job_flags` is what stands behind `--`."""
        ...


COMMANDS: dict[str, type[Command]] = {
    "head": HeadCommand,
    "run": RunCommand,
    "submit": SubmitCommand,
    "demo": DemoCommand,
    "predict": PredictCommand,
    "evaluate": EvaluateCommand,
    "export": ExportCommand,
    "visualize": VisualizeCommand,
    "serve": ServeCommand,
    "ui": UiCommand,
    "register": RegisterCommand,
    "sync-tracking": SyncTrackingCommand,
    "convert": ConvertCommand,
    "order": OrderCommand,
    "checkpoint": CheckpointCommand,
    "replay": ReplayCommand,
    "chaos": ChaosCommand,
    "zoo": ZooCommand,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads of torch leave the cores to readers
    exempt_loopback_here()
    given = list(sys.argv[1:] if args is None else args)
    split = given.index("--") if "--" in given else len(given)
    own, job_flags = given[:split], given[split + 1 :]

    def run() -> int:
        command: Command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="qdet", args=own, config=(tyro.conf.FlagCreatePairsOff,)
        )
        return command.run(job_flags)

    exit_on_user_error(run)


if __name__ == "__main__":
    main()
