"""Where a job's relative paths start: the folder that QDET_ROOT names, or else the current one.

Ray unpacks a submitted job into a folder of its own and starts its workers in yet another, so `data/coco`
would mean three places. The launcher resolves every path of a job once, before any worker exists; whoever
submits a job (`python -m qdet submit`, `cluster/local.sh`) sets QDET_ROOT to the folder that the user meant.
"""

import os
import tempfile
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


def _shards(address: str) -> str:
    """Return the address of shards, which may be several patterns in one, with absolute paths."""
    return "::".join(part if is_pipe(part) else absolute(part) for part in address.split("::"))


def resolve(job: Job) -> Job:
    """Return `job` with every path absolute: shards, store, checkpoint and pre-trained weights."""
    changes = {
        "data.train": _shards(job.data.train),
        "data.val": _shards(job.data.val),
        "store.path": absolute(job.store.path),
    }
    if job.data.categories:
        changes["data.categories"] = absolute(job.data.categories)
    if not job.data.cache.startswith("~"):  # every machine has a home of its own
        changes["data.cache"] = absolute(job.data.cache)
    if job.store.init_from:
        changes["store.init_from"] = absolute(job.store.init_from)
    for path, value in flatten(job.detector).items():
        # Other values name what is not a file: `imagenet`, `package:NAME`, a URL.
        if path.endswith("weights") and isinstance(value, str) and Path(absolute(value)).is_file():
            changes[f"detector.{path}"] = absolute(value)
    return override(job, changes)


def tracking_uri() -> str:
    """Return where MLflow keeps runs, the same from every working directory."""
    uri = os.environ.get(TRACKING) or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{root() / uri.removeprefix('sqlite:///')}"
    return uri if ":" in uri else absolute(uri)


def state_folder() -> Path:
    """Return the folder of what is kept on this machine: token, record and log of the head, unsent points."""
    folder = root() / ".qdet"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def spool_folder(run: str, process: str) -> Path:
    """Return a local folder that outlives this process, for points that MLflow does not have yet."""
    try:
        folder = state_folder() / "tracking" / run / process
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a worker on a machine without the driver's folder
        folder = Path(tempfile.gettempdir()) / "qdet-tracking" / run / process
        folder.mkdir(parents=True, exist_ok=True)
    return folder
