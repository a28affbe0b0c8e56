"""A machine of a simulated cluster whose processor goes wrong, and a log of what trains there.

`environment_of` plants it as the `sitecustomize.py` of one node's Python.
"""

import importlib.abc
import importlib.util
import os
import sys
from contextlib import contextmanager
from pathlib import Path

LOG, FROM = "FAULTY_MACHINE_LOG", "FAULTY_MACHINE_FROM"
VERIFY = "qdet.training.corruption.verify"


def environment_of(folder: Path, *, wrong_from: int | None = None) -> dict[str, str]:
    """Return the variables of a node whose ranks are logged in `folder`.

    Args:
        folder: Holds the log and the `sitecustomize.py`.
        wrong_from: Steps after which its processor breaks, at the next gradient of it that is checked: from
            then on each that it computes has a flipped bit. None leaves it sound.
    """
    folder.mkdir(parents=True)
    plant = "from tests.support import faulty_machine\n\nfaulty_machine.install()\n"
    (folder / "sitecustomize.py").write_text(plant)
    path = f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}"
    return {"PYTHONPATH": path, LOG: str(folder / "log"), FROM: "" if wrong_from is None else str(wrong_from)}


def ranks_on(folder: Path) -> list[tuple[int, int]]:
    """Return number of ranks and rank of every worker that trained on the node of this folder."""
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [(int(size), int(rank)) for what, size, rank in map(str.split, lines) if what == "rank"]


def wrong_on(folder: Path) -> list[tuple[int, int]]:
    """Return step, counted from 1, and rank of every time that the processor of this node broke."""
    lines = (folder / "log").read_text().splitlines()
    return [(int(step), int(rank)) for what, step, rank in map(str.split, lines) if what == "wrong"]


def install() -> None:
    """Have this process break and be logged, if it trains."""
    sys.meta_path.insert(0, _AfterImport())


class _AfterImport(importlib.abc.MetaPathFinder):
    """Changes one module right after it was imported, and then steps aside."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != VERIFY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            _change(module)

        spec.loader.exec_module = exec_module
        return spec


def _change(verify) -> None:
    import torch

    from tests.support.bit_flips import flip_bit

    begin, watching = verify.Verifier.__init__, verify.Check.watching
    after, broken = os.environ[FROM], []

    def log(*words) -> None:
        with Path(os.environ[LOG]).open("a") as file:
            print(*words, file=file)

    def started(verifier, job, world, **others):
        log("rank", world.size, world.rank)
        begin(verifier, job, world, **others)

    def flip(gradient):
        wrong = gradient.clone(memory_format=torch.contiguous_format)
        flip_bit(wrong)
        return wrong

    @contextmanager
    def watched(check, number):
        rank = check.verifier.world.rank
        mine = (check.turn.checked, check.turn.number) == (rank, number)
        if after and mine and check.step >= int(after) and not broken:
            broken.append(True)
            log("wrong", check.step + 1, rank)
            next(p for p in check.verifier.detector.parameters() if p.requires_grad).register_hook(flip)
        with watching(check, number):
            yield

    verify.Verifier.__init__, verify.Check.watching = started, watched
