"""The `qdet` commands: start Ray, submit jobs, use what they trained. `python -m qdet` is the same."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Literal, Protocol, runtime_checkable

import tyro
from tyro.conf import Positional, arg

from qdet.allocator import keep_freed_memory
from qdet.errors import ConfigError, did_you_mean
from qdet.launching.commands.certify import CertifyCommand
from qdet.launching.commands.chaos import ChaosCommand
from qdet.launching.commands.cluster.doctor import DoctorCommand
from qdet.launching.commands.convert import ConvertCommand
from qdet.launching.commands.data.prepare import PrepareCommand
from qdet.launching.commands.demo import DemoCommand
from qdet.launching.commands.head import HeadCommand
from qdet.launching.commands.models.evaluate import EvaluateCommand
from qdet.launching.commands.models.export import ExportCommand
from qdet.launching.commands.models.predict import PredictCommand
from qdet.launching.commands.models.serve import ServeCommand
from qdet.launching.commands.models.visualize import VisualizeCommand
from qdet.launching.commands.order import OrderCommand
from qdet.launching.commands.run import RunCommand
from qdet.launching.commands.runs.checkpoint import CheckpointCommand
from qdet.launching.commands.runs.replay import ReplayCommand
from qdet.launching.commands.runs.reproduce import ReproduceCommand
from qdet.launching.commands.runs.runs import RunsCommand
from qdet.launching.commands.runs.show import ShowCommand
from qdet.launching.commands.submit import SubmitCommand
from qdet.launching.commands.tracking.register import RegisterCommand
from qdet.launching.commands.tracking.sync_tracking import SyncTrackingCommand
from qdet.launching.commands.tracking.ui import UiCommand
from qdet.launching.commands.training.train import TrainCommand
from qdet.launching.commands.zoo import ZooCommand
from qdet.launching.exit_status import Exit, exit_on_user_error
from qdet.launching.flag_types import REGISTRY
from qdet.storage.proxies import exempt_loopback_here


@runtime_checkable
class Command(Protocol):
    """A dataclass of a command's arguments."""

    def run(self, job_flags: Sequence[str], /) -> int:
        """Run the command and return its exit code; `job_flags` is what stands behind `--`."""
        ...


@dataclass(frozen=True, kw_only=True)
class CompletionCommand:
    """Print a script that lets the Tab key complete `qdet`: eval "$(qdet completion bash)"."""

    shell: Annotated[Positional[Literal["bash", "zsh"]], arg(help="Which shell runs the script.")]

    def run(self, _: Sequence[str]) -> int:
        """Print it."""
        parse(["--tyro-print-completion", self.shell])
        return Exit.DONE


COMMANDS: dict[str, type[Command]] = {
    "head": HeadCommand,
    "doctor": DoctorCommand,
    "run": RunCommand,
    "submit": SubmitCommand,
    "demo": DemoCommand,
    "prepare": PrepareCommand,
    "train": TrainCommand,
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
    "runs": RunsCommand,
    "show": ShowCommand,
    "checkpoint": CheckpointCommand,
    "replay": ReplayCommand,
    "reproduce": ReproduceCommand,
    "chaos": ChaosCommand,
    "zoo": ZooCommand,
    "certify": CertifyCommand,
    "completion": CompletionCommand,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads of torch leave the cores to readers
    if args is None:  # the process is this program's own
        keep_freed_memory()
    exempt_loopback_here()
    given = list(sys.argv[1:] if args is None else args)
    split = given.index("--") if "--" in given else len(given)
    own, job_flags = given[:split], given[split + 1 :]

    exit_on_user_error(lambda: parse(own).run(job_flags))


def parse(args: Sequence[str]) -> Command:
    """Return the command of a command line, without what stands behind `--`.

    Raises:
        ConfigError: There is no such command.
        SystemExit: It asks for help or the version, or its flags cannot be read.
    """
    if args and args[0] == "--version":
        print(f"qdet {version('qdet')}")
        raise SystemExit(0)
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        hint = did_you_mean(args[0], COMMANDS)
        raise ConfigError(f"there is no command {args[0]}.{hint} `qdet --help` lists them all")
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="qdet", args=args, config=(tyro.conf.FlagCreatePairsOff,), registry=REGISTRY
    )


if __name__ == "__main__":
    main()
