"""Deliver records to an MLflow run. Delivery is idempotent.

MLflow drops a metric point that it has, files are overwritten, tags set again. So a process may die between
sending a record and marking it as sent.
"""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qdet.storage.parsing import parse_json
from qdet.tracking.known_points import KnownPoints
from qdet.tracking.logged_model import deliver_model
from qdet.tracking.spool import Record
from qdet.tracking.values import LONGEST_TAG

CAUSE_TAG = "qdet.cause"
"""Tag that says why a run failed or was killed."""
PARAMS_PER_REQUEST = 100  # MLflow's limit
DIGEST_LENGTH = 8  # as long as those of MLflow's own datasets; the source carries the whole digest
THUMBNAIL = 1024  # of the copy that MLflow's page shows, pixel for pixel; a click shows the whole picture


class Delivery:
    """An open MLflow run. Methods raise network errors unchanged."""

    def __init__(self, client: Any, run: Any, folder: Path) -> None:
        """Deliver to `run`; records name files relative to `folder`, the spool's."""
        self._client, self._run, self._folder = client, run, folder
        self._id: str = run.info.run_id
        self._known = KnownPoints(client, run)
        self._by_kind: dict[str, Callable[[Record], None]] = {
            "begin": self._begin,
            "params": self._params,
            "tags": self._tags,
            "dataset": self._dataset,
            "artifact": self._artifact,
            "table": self._table,
            "picture": self._picture,
            "model": self._model,
            "end": self._end,
        }

    def metrics(self, records: Sequence[Record]) -> None:
        """Log the points of several records at once, except those of steps that MLflow already has."""
        from mlflow.entities import Metric

        new: dict[tuple[str, int], Metric] = {}
        aged: list[Metric] = []
        for record in records:
            step, at = record["step"], record["at"]
            for key, value in record["values"].items():
                if step is None:  # system metrics; theirs is the age of the run in seconds
                    aged.append(Metric(key, value, at, self._age(at)))
                elif self._known.takes(key, step, at):
                    new.setdefault((key, step), Metric(key, value, at, step))
        if new or aged:
            self._client.log_batch(self._id, metrics=[*new.values(), *aged])
        for point in new.values():
            self._known.add(point.key, point.step, point.timestamp)

    def other(self, record: Record) -> None:
        """Log one record of any other kind."""
        self._by_kind[record["kind"]](record)

    def answers(self) -> bool:
        """Whether the server still knows the run."""
        try:
            self._client.get_run(self._id)
        except Exception:  # any failure of network or server means no
            return False
        return True

    def _age(self, at: int) -> int:
        return max(0, (at - self._run.info.start_time) // 1000)

    def _begin(self, record: Record) -> None:
        """Mark a resumed run as running again, unless it has ended since."""
        info = self._client.get_run(self._id).info
        if info.status != "RUNNING" and (info.end_time or 0) <= record["at"]:
            self._client.update_run(self._id, status="RUNNING")

    def _end(self, record: Record) -> None:
        """End the run; one that has come to its end in a later start no longer has a cause of failure."""
        self._client.set_terminated(self._id, status=record["status"], end_time=record["at"])
        if record["status"] == "FINISHED" and CAUSE_TAG in self._client.get_run(self._id).data.tags:
            self._client.delete_tag(self._id, CAUSE_TAG)

    def _params(self, record: Record) -> None:
        """Log new parameters. MLflow cannot change one, so changes of a resumed run become tags."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self._id).data.params
        new = iter([Param(k, v) for k, v in record["values"].items() if k not in known])
        while chunk := list(islice(new, PARAMS_PER_REQUEST)):
            self._client.log_batch(self._id, params=chunk)
        changed = [(k, v) for k, v in record["values"].items() if k in known and known[k] != v]
        if changed:
            self._client.log_batch(self._id, tags=[RunTag(f"changed.{k}"[:250], v) for k, v in changed])

    def _tags(self, record: Record) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._id, tags=[RunTag(k, v) for k, v in record["values"].items()])

    def _dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        kind = _source_type(record["source"])
        source = {"url" if kind == "http" else "uri": record["source"], "digest": record["digest"]}
        dataset = Dataset(
            name=record["name"],
            digest=record["digest"][:DIGEST_LENGTH],
            source_type=kind,
            source=json.dumps(source),
            profile=json.dumps(record.get("profile", {})),
        )
        tags = [InputTag("mlflow.data.context", record["context"])]
        self._client.log_inputs(self._id, datasets=[DatasetInput(dataset, tags)])

    def _artifact(self, record: Record) -> None:
        self._client.log_artifact(self._id, str(self._folder / record["file"]), record["to"] or None)

    def _table(self, record: Record) -> None:
        """Log a table that MLflow's page shows as one, like `MlflowClient.log_table`, but never append."""
        self._artifact(record)
        tags = self._client.get_run(self._id).data.tags
        shown = _tables(tags.get("mlflow.loggedArtifacts", "[]"))
        name = Path(record["file"]).name
        entry = {"path": f"{record['to']}/{name}" if record["to"] else name, "type": "table"}
        if entry not in shown:
            shown.append(entry)
            while len(text := json.dumps(shown)) > LONGEST_TAG:  # MLflow would cut off its end
                del shown[0]
            self._client.set_tag(self._id, "mlflow.loggedArtifacts", text)

    def _picture(self, record: Record) -> None:
        """Log a picture to the page that shows it over steps, as `MlflowClient.log_image` does."""
        from PIL import Image

        full = self._folder / record["file"]
        small = full.with_name(f"{full.stem}+compressed.webp")
        with Image.open(full) as image:
            copy = image.convert("RGB")
        copy.thumbnail((THUMBNAIL, THUMBNAIL))
        copy.save(small)
        for file in (full, small):
            self._client.log_artifact(self._id, str(file), "images")
        self._client.set_tag(self._id, "mlflow.loggedImages", "True")

    def _model(self, record: Record) -> None:
        """Log a model, with its metrics at the times at which the run has them: MLflow then keeps one."""
        stamps = {key: self._known.stamp(key, record["step"]) for key in record["values"]}
        known = {key: stamp for key, stamp in stamps.items() if stamp is not None}
        deliver_model(self._client, self._id, self._folder / record["file"], record | {"stamps": known})


def _tables(tag: str) -> list[Any]:
    """Return the tables that a tag lists; none where earlier versions have let it be cut off."""
    try:
        found = parse_json(tag)
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def _source_type(address: str) -> str:
    """Return the name under which MLflow knows such a source, so that `mlflow.data.get_source` opens it."""
    scheme = urlsplit(address).scheme
    return {"": "local", "file": "local", "https": "http"}.get(scheme, scheme)
