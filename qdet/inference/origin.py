"""Where a trained model is: the addresses that `qdet.load` and `--store.init-from` take.

A path wins over the name of a run in the store, and both win over the shipped model `demo`, which
`package:demo` always means.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from torch import Tensor

from qdet.checkpoint import Checkpoint, run_names
from qdet.checkpoint.manifest import MANIFEST, read_manifest
from qdet.checkpoint.reading import peek
from qdet.checkpoint.run_folder import RunFolder
from qdet.checkpoint.run_names import STORE
from qdet.errors import CheckpointError, StorageError, did_you_mean
from qdet.inference.description import Description
from qdet.inference.exported_files import MODEL, describe_file, read_file
from qdet.inference.from_mlflow import downloaded_model, is_mlflow, is_run_id
from qdet.inference.trained import best_checkpoint
from qdet.storage import Folder
from qdet.storage.urls import is_url

GRAPHS = (".onnx", ".pt2")
"""Endings of exported graphs, which predict and are not trained."""
FILES = (".safetensors", *GRAPHS)
"""Endings of exported files."""
FOREIGN = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
"""Endings of other programs' checkpoints."""
SHIPPED = ("demo",)
"""Models that come with qdet, by name: files beside this one."""

Announce = Callable[[str], None]


def locate(source: str, *, store: str = STORE, announce: Announce) -> str:
    """Return the address of the one model that `source` names: a checkpoint, a .safetensors file, MLflow's.

    Args:
        source: A run's folder, of which the intact checkpoint with the best val/AP is taken, or its name; a
            checkpoint's folder; a .safetensors file or a folder that holds one; a model of MLflow; `demo`.
        store: Folder or URL in which the name of a run is looked for.
        announce: Called with a line about every checkpoint that is passed over.

    Raises:
        CheckpointError: There is none that training could start from.
    """
    if is_mlflow(source) or is_run_id(source):
        return source
    if (file := shipped(source, store=store)) is not None:
        return str(file)
    if ending(source) in (*FILES, *FOREIGN):
        return _check_file(source)
    folder = find_folder(source, store=store)
    try:
        if folder.size(MODEL) is not None:
            return f"{folder.url}/{MODEL}"
        found = folder if folder.size(MANIFEST) is not None else best_checkpoint(RunFolder(folder), announce)
        return found.url
    except StorageError as error:
        raise CheckpointError(str(error)) from error


def describe(address: str) -> Description:
    """Describe what `locate` returned, without reading its weights.

    Raises:
        CheckpointError: It is damaged, or of another version.
    """
    with _on_disk(address) as where:
        if ending(where) == ".safetensors":
            return describe_file(where)
        folder = Folder.open(where)
        seen = peek(folder) if folder.local is None else Checkpoint(folder, verified=True)
        return Description.of_checkpoint(seen, read_manifest(folder), averaged=True)


def read_weights(address: str) -> dict[str, Tensor]:
    """Return parameters and buffers of what `locate` returned, averaged where there is an average.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    with _on_disk(address) as where:
        if ending(where) == ".safetensors":
            return read_file(where)
        return Checkpoint(Folder.open(where), verified=True).model()


def shipped(source: str, *, store: str = STORE) -> Path | None:
    """Return the file of the shipped model that `source` means; None where it means something else."""
    name = source.removeprefix("package:")
    if name not in SHIPPED:
        if source.startswith("package:"):
            raise CheckpointError(f"qdet ships no model {name}; it has {', '.join(SHIPPED)}")
        return None
    if name == source and (Path(name).exists() or _is_run(name, store)):
        return None
    return Path(str(files("qdet.inference") / f"{name}.safetensors"))


def find_folder(where: str, *, store: str = STORE) -> Folder:
    """Return the folder of that path, URL or run name, or of the run that a part of its name tells.

    Raises:
        CheckpointError: There is none; the message names what is near.
        ConfigError: It names several runs.
    """
    found = run_names.find_folder(where)
    if found is not None:
        return found
    if is_url(where):
        return Folder.open(where)
    if store != STORE and (run := run_names.find_run(store, where)) is not None:
        return Folder.open(store).child(run)
    if Path(where).exists():
        raise CheckpointError(
            f"{where} is no model; give the folder of a run or checkpoint, or a .safetensors, .onnx or .pt2"
        )
    parent = Path(where).expanduser().parent
    near = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    if not is_url(store) and Path(store).is_dir():
        near += [p.name for p in Path(store).iterdir()]
    raise CheckpointError(
        f"{where} is not there.{did_you_mean(Path(where).name, [*near, *SHIPPED])} Give a run's folder, such "
        f"as {STORE}/RUN, a part of its name, a checkpoint's folder, an exported file, runs:/ID of MLflow "
        "or demo"
    )


def ending(where: str) -> str:
    """Return the ending of a path or URL in lower case, with its dot."""
    return Path(where.partition("?")[0]).suffix.lower()


def refuse_foreign(where: str) -> CheckpointError:
    """Return the error for another program's checkpoint, which may be a pickle and is never opened."""
    return CheckpointError(
        f"{where} is no file of qdet; convert an authors' checkpoint first: "
        + shlex.join(["qdet", "convert", where, "--to", f"weights/{Path(where).stem}"])
    )


def _check_file(where: str) -> str:
    if ending(where) in FOREIGN:
        raise refuse_foreign(where)
    if ending(where) in GRAPHS:
        raise CheckpointError(
            f"{where} is a graph for prediction, which cannot be trained; give the run, checkpoint or "
            ".safetensors file that it was exported from"
        )
    if not is_url(where) and not Path(where).expanduser().is_file():
        raise CheckpointError(f"{where} is not there")
    return where


@contextmanager
def _on_disk(address: str) -> Iterator[str]:
    """Give a model of MLflow as a file here for as long as the block lasts; other addresses as they are."""
    if not (is_mlflow(address) or is_run_id(address)):
        yield address
        return
    with downloaded_model(address) as file:
        yield file


def _is_run(name: str, store: str) -> bool:
    if not re.fullmatch(r"[\w.-]+", name):
        return False
    if is_url(store):
        return bool(RunFolder(Folder.open(store).child(name)).steps())
    return (Path(store) / name).is_dir()
