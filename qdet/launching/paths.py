"""Where a job's relative paths start: QDET_ROOT, or else the current folder.

Ray unpacks a submitted job into one folder and starts its workers in another, so `data/coco` would mean three
places. The launcher resolves every path of a job once, before any worker starts; `qdet submit` and
`cluster/local.sh` set QDET_ROOT to the project folder.
"""

import os
import secrets
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from qdet.config import flatten, override
from qdet.job import Job
from qdet.storage.urls import is_pipe, is_url

ROOT = "QDET_ROOT"
TRACKING = "MLFLOW_TRACKING_URI"


def root() -> Path:
    """Return the folder that relative paths start from."""
    return Path(os.environ.get(ROOT) or Path.cwd()).absolute()


def absolute(path: str) -> str:
    """Return `path` as an absolute path; a URL stays as it is."""
    return path if is_url(path) else str(root() / Path(path).expanduser())


def shorten(path: str) -> str:
    """Return a path below the root relative to it, for commands that users type there; else as it is."""
    found = Path(path)
    return str(found.relative_to(root())) if not is_url(path) and found.is_relative_to(root()) else path


def program(name: str) -> str:
    """Return how a command of this installation is typed here: its name where the shell finds that.

    In a Ray job the shell that finds it is not the user's, who starts at `root`.
    """
    beside = Path(sys.executable).parent / name
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    found = None if in_job else shutil.which(name)
    if not beside.is_file() or (found and Path(found).samefile(beside)):
        return name
    return shorten(str(beside))


def _shards(address: str) -> str:
    """Return an address of shards, one pattern or several joined by `::`, with absolute paths."""
    return "::".join(part if is_pipe(part) else absolute(part) for part in address.split("::"))


def _model(source: str, store: str) -> str:
    """Return a model to start from as an absolute path; a run's name in a remote store and MLflow's stay."""
    here = absolute(source)
    if is_url(source) or ":/" in source or source.startswith("package:") or Path(here).exists():
        return here if Path(here).exists() else source
    if "/" in source or Path(source).suffix:
        return here
    if not is_url(store) and (Path(store) / source).is_dir():
        return str(Path(store) / source)
    return f"package:{source}" if source == "demo" else source


def resolve(job: Job) -> Job:
    """Return `job` with every path absolute: shards, store, checkpoint and pre-trained weights."""
    changes = {
        "data.train": _shards(job.data.train),
        "data.val": _shards(job.data.val),
        "store.path": absolute(job.store.path),
    }
    if job.data.categories:
        changes["data.categories"] = absolute(job.data.categories)
    if not job.data.cache.startswith("~"):  # the home folder differs between machines
        changes["data.cache"] = absolute(job.data.cache)
    if job.store.init_from:
        changes["store.init_from"] = _model(job.store.init_from, absolute(job.store.path))
    for path, value in flatten(job.detector).items():
        # Other values are not files: `imagenet`, `package:NAME`, a URL.
        if path.endswith("weights") and isinstance(value, str) and Path(absolute(value)).is_file():
            changes[f"detector.{path}"] = absolute(value)
    return override(job, changes)


def tracking_uri(given: str | None = None) -> str:
    """Return MLflow's tracking URI, the given one or MLFLOW_TRACKING_URI, from every working directory."""
    uri = given or os.environ.get(TRACKING) or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{root() / uri.removeprefix('sqlite:///')}"
    return uri if ":" in uri else absolute(uri)


def state_folder() -> Path:
    """Return the folder of this machine's state: token, the head's record and log, unsent metrics."""
    folder = root() / ".qdet"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def secret(name: str) -> str:
    """Return what the secret file `name` in the state folder holds: random letters, made where it is new.

    Only its owner can read it.
    """
    file = state_folder() / name
    if not file.is_file():
        new = file.with_name(f".{name}-{secrets.token_hex(4)}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another process was first
            os.link(new, file)
        new.unlink()
    return file.read_text().strip()


def has_spool(run: str) -> bool:
    """Whether this folder holds metrics of a run of that name, of whatever store."""
    return (root() / ".qdet" / "tracking" / run).exists()


def spool_folder(run: str, process: str) -> Path:
    """Return a local folder that outlives this process, for metrics not yet sent to MLflow."""
    try:
        folder = state_folder() / "tracking" / run / process
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a worker on a machine without the driver's folder
        folder = Path(tempfile.gettempdir()) / "qdet-tracking" / run / process
        folder.mkdir(parents=True, exist_ok=True)
    return folder
