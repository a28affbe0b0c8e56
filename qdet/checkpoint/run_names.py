"""Runs by name: any part of it that names one run alone is enough."""

from collections.abc import Iterable
from pathlib import Path

from qdet.checkpoint.run_folder import RunFolder, open_folder
from qdet.errors import CheckpointError, ConfigError
from qdet.storage import Folder
from qdet.storage.urls import is_url

STORE = "outputs"
"""Folder in which the name of a run is looked for."""
RECORD = "run.json"
"""File of a run that says which it is."""
_LISTED = 8


def list_runs(store: Folder) -> list[str]:
    """Return the names of the runs of a store, sorted."""
    return [name for name in store.folders() if is_run(store.child(name))]


def is_run(folder: Folder) -> bool:
    """True for a folder with the record of a run, or with checkpoints."""
    return folder.size(RECORD) is not None or bool(RunFolder(folder).steps())


def match_run(text: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `text` is, or begins, or begins the last words of; None for none.

    >>> match_run("sw", ["detr_r50-calm-heron", "detr_r50-swift-otter"])
    'detr_r50-swift-otter'

    Raises:
        ConfigError: `text` is not enough to tell several of them apart.
    """
    known = sorted(names)
    if text in known:
        return text
    for found in ([n for n in known if n.startswith(text)], [n for n in known if f"-{text}" in n]):
        if len(found) > 1:
            shown = ", ".join(found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
            raise ConfigError(f"{text} names {len(found)} runs: {shown}. Give more of the name")
        if found:
            return found[0]
    return None


def find_run(store: str | Path | Folder, text: str) -> str | None:
    """Return the full name of the run of `store` that `text` names, as `match_run` does; None for none.

    Raises:
        ConfigError: `text` names several runs.
        CheckpointError: Nothing installed here opens such a URL.
    """
    folder = store if isinstance(store, Folder) else open_folder(store)
    if not text or "/" in text:
        return None
    if is_run(folder.child(text)):
        return text
    near = [name for name in folder.folders() if f"-{text}" in f"-{name}"]
    return match_run(text, (name for name in near if is_run(folder.child(name))))


def find_folder(where: str | Path) -> Folder | None:
    """Return the folder that is there, or that of the run whose name begins so, there or in `outputs`.

    Args:
        where: Path or URL of any folder, the name of a run in `outputs`, or the beginning of either.

    Raises:
        ConfigError: It names several runs.
        CheckpointError: Nothing installed here opens such a URL.
    """
    text = str(where) if is_url(str(where)) else str(Path(where).expanduser())
    folder = open_folder(text)
    if folder.local.is_dir() if folder.local is not None else folder.names() or folder.folders():
        return folder
    for store, name in _places(text):
        if (run := find_run(store, name)) is not None:
            return open_folder(store).child(run)
    return None


def _places(text: str) -> list[tuple[str, str]]:
    """Return the stores that may hold a run of that name, and its name in each."""
    address, mark, query = text.partition("?")
    parent, slash, name = address.rstrip("/").rpartition("/")
    if not slash:
        return [(".", text), (STORE, text)]
    return [] if parent.endswith((":", "/")) else [(parent + mark + query, name)]


def require_folder(where: str | Path) -> Folder:
    """Return what `find_folder` does.

    Raises:
        CheckpointError: There is no such folder or run.
    """
    found = find_folder(where)
    if found is None:
        raise CheckpointError(
            f"{where} is no folder, and no run in {STORE} has a name with it; `qdet runs` lists them"
        )
    return found
