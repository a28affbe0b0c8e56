"""An MLflow run that is logged to without ever waiting for MLflow.

Calls only queue. One thread writes the queue to a spool on local disk, another sends the spool, so a server
that is down neither stops nor slows training, and receives its points when it is back.
"""

import io
import json
import logging
import os
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, SupportsFloat

from qdet.masking import mask
from qdet.tracking import values as as_mlflow
from qdet.tracking.background import Background
from qdet.tracking.run_tags import run_tags
from qdet.tracking.sender import Sender
from qdet.tracking.server import quiet_environment
from qdet.tracking.server import tracking_uri as default_uri
from qdet.tracking.spool import Record, Spool
from qdet.tracking.system_metrics import SystemMetrics
from qdet.tracking.tracker import ModelFacts, Picture, Status

_log = logging.getLogger(__name__)


class MLflowTracker:
    """Logs one run; see `Tracker` for what its methods take. Made by `open`."""

    def __init__(
        self, spool: Spool, uri: str, *, system_metrics: float | int | None, node: str | None
    ) -> None:
        self._spool = spool
        self._sender = Sender(spool, uri)
        self._background = Background(spool, self._sender)
        self._closed = False
        self._put({"kind": "begin"})
        self._system = None
        if system_metrics:
            self._system = SystemMetrics(self._system_point, interval=system_metrics, node=node)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        experiment: str,
        run_name: str,
        run_hash: str | None = None,
        run_id: str | None = None,
        parent_run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        tracking_uri: str | None = None,
        system_metrics: float | int | None = None,
        node: str | None = None,
    ) -> "MLflowTracker":
        """Open the run `run_id`; without one, the experiment's run of that name, or a new one.

        Args:
            folder: Local folder for this process's spool. Records left by an earlier process are sent too.
            experiment: MLflow experiment, created if it does not exist.
            run_name: Name of the run, unique within its store.
            run_hash: Tells it from runs of that name in other stores; without it, the name alone decides.
            run_id: The run, if already known.
            parent_run_id: The run this one is nested under, such as a trial under its sweep.
            tags: Tags of the run, if it is a new one.
            tracking_uri: The server; by default that of `qdet.tracking.tracking_uri()`.
            system_metrics: Seconds between samples of CPU, memory and GPU use; None disables them.
            node: Name of this machine in the run's system metrics, if there are several.
        """
        uri = tracking_uri or default_uri()
        quiet_environment()
        logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs every migration of a new database
        spool = _spool(folder)
        known = spool.about()
        same = (known.get("run_name"), known.get("run_hash")) == (run_name, run_hash)
        spool.describe(
            {
                "tracking_uri": mask(uri),
                "experiment": experiment,
                "run_name": run_name,
                "run_hash": run_hash,
                "run_id": run_id or (known.get("run_id") if same else None),
                "tags": run_tags(parent_run_id) | as_mlflow.tags(tags or {}),
                "created": _now(),
            }
        )
        return cls(spool, uri, system_metrics=system_metrics, node=node)

    @property
    def run_id(self) -> str | None:
        """The MLflow run; None until the server has answered for the first time."""
        return self._sender.run_id

    def wait_for_run(self, seconds: float | int) -> str | None:
        """Wait for the server's first answer and return the run's id; None if there is none within `seconds`.

        Does not wait for a server known to be down: later processes find the run by its name.

        The first use of a database creates its tables, which takes seconds: call this before workers start.
        """
        self._background.tried.wait(seconds)
        return self.run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the flat settings of the run; what a resumed run changed becomes a tag `changed.NAME`."""
        self._put({"kind": "params", "values": as_mlflow.params(values)})

    def metrics(self, values: Mapping[str, SupportsFloat], step: int) -> None:
        """Log numbers at an optimizer step."""
        self._put({"kind": "metrics", "step": step, "values": as_mlflow.metrics(values)})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, replacing those of the same name."""
        self._put({"kind": "tags", "values": as_mlflow.tags(values)})

    def dataset(
        self, name: str, digest: str, source: str, context: str, sizes: Mapping[str, int] | None = None
    ) -> None:
        """Log which data was read; `context` is its role, such as "training"."""
        about = {"name": name, "digest": digest, "source": mask(source), "context": context}
        self._put({"kind": "dataset", "profile": dict(sizes or {})} | about)

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Log a table by columns as `file`, which ends in .json and replaces one of that name."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        content = json.dumps({"columns": list(columns), "data": rows}).encode()
        self._file("table", content, file)

    def picture(self, image: Picture, name: str, step: int) -> None:
        """Log an RGB picture, shown over steps under its name."""
        at = _now()
        try:
            content = image.read_bytes() if isinstance(image, Path) else image.copy()
        except OSError as error:
            _log.warning("cannot log picture %s: %s", name, error)
            return
        key = "".join(c if c.isalnum() or c in "_-. " else "~" for c in name)

        def record() -> Record:
            made = content if isinstance(content, bytes) else _png(content)
            held = self._spool.hold(f"{key}+step+{step}+timestamp+{at}+{os.urandom(8).hex()}.png", made)
            return {"kind": "picture", "at": at, "file": held}

        self._background.put(record)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or every file in a folder, into `folder` of the run."""
        if not path.is_dir():
            self._file("artifact", path, str(PurePosixPath(folder) / path.name))
            return
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            self._file("artifact", file, str(PurePosixPath(folder) / file.relative_to(path).as_posix()))

    def text(self, text: str, file: str) -> None:
        """Log text as `file`, without secrets."""
        self._file("artifact", mask(text).encode(), file)

    def model(self, folder: Path, facts: ModelFacts) -> None:
        """Log a model in MLflow's format; MLflow calls it ready once all of it has arrived."""
        about = {"name": facts.name, "step": facts.step, "key": uuid.uuid4().hex}
        about |= {"values": as_mlflow.metrics(facts.metrics), "params": as_mlflow.params(facts.params)}
        self._hold({"kind": "model"} | about, facts.name, folder)

    def close(self, status: Status | None = None, *, wait: float | int = 15) -> bool:
        """Send the rest within `wait` seconds; return whether all was sent. No status: the run stays open."""
        if self._closed:
            return self._background.done
        self._closed = True
        if self._system is not None:
            self._system.close()
        if status is not None:
            self._put({"kind": "end", "status": status})
        if self._background.close(wait):
            self._spool.close()
            return True
        command = shlex.join(["python", "-m", "qdet", "sync-tracking", str(self._spool.folder)])
        _log.warning("MLflow did not take all points; once it answers, send them with: %s", command)
        return False

    def _put(self, record: Record) -> None:
        record = {"at": _now()} | record
        self._background.put(lambda: record)

    def _system_point(self, values: dict[str, float]) -> None:
        self._put({"kind": "metrics", "step": None, "values": values})

    def _file(self, kind: str, content: bytes | Path, to: str) -> None:
        target = PurePosixPath(to)
        folder = "" if target.parent == PurePosixPath() else str(target.parent)
        self._hold({"kind": kind, "to": folder}, target.name, content)

    def _hold(self, record: Record, name: str, content: bytes | Path) -> None:
        """Queue a record with what it sends; the caller may remove that at once."""
        try:
            held = self._spool.hold(name, content, always=record["kind"] == "model")  # of which a run has two
        except OSError as error:
            _log.warning("cannot log %s: %s", name, error)
            return
        self._put(record | {"file": held})


def _spool(folder: Path) -> Spool:
    try:
        return Spool(folder)
    except BlockingIOError:  # a process of the same run that is about to end
        return Spool(folder / f"process-{os.getpid()}-{time.time_ns()}")


def _png(image: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG")
    return out.getvalue()


def _now() -> int:
    return int(time.time() * 1000)
