"""Send a spool's records to MLflow, in order, each at least once."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from qdet.errors import TrackingError
from qdet.masking import MASK, mask
from qdet.tracking.database import open_client
from qdet.tracking.delivery import Delivery
from qdet.tracking.mlflow_run import find_or_create_run
from qdet.tracking.server import tracking_uri
from qdet.tracking.spool import Record, Spool

METRICS_PER_REQUEST = 1000  # MLflow's limit
TRIES = 3
"""Failed attempts at one record, while the server answers otherwise, before it is put aside."""
NEEDED = frozenset({"experiment", "run_name", "tags", "created"})
"""What must be known of a run to find it in MLflow."""
_NEVER = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")

_log = logging.getLogger(__name__)

Positioned = tuple[Record, int]


class Sender:
    """Sends one spool to MLflow. Methods raise network errors unchanged; unsent records stay."""

    def __init__(self, spool: Spool, uri: str) -> None:
        self.spool, self._uri = spool, uri
        self.run_id: str | None = spool.about().get("run_id")
        self._delivery: Delivery | None = None
        self._failures = 0

    def connect(self) -> Delivery:
        """Find or create the run on the first call; return its delivery."""
        if self._delivery is None:
            about = self.spool.about()
            client = open_client(self._uri)
            run = find_or_create_run(client, about, self._uri)
            self.spool.describe(about | {"run_id": run.info.run_id})
            self.run_id = run.info.run_id
            self._delivery = Delivery(client, run, self.spool.folder)
        return self._delivery

    def send(self) -> int:
        """Send all records of the spool and return their number."""
        delivery, count = self.connect(), 0
        while waiting := self.spool.unsent():
            for group in _groups(waiting):
                self._send(group, delivery)
                count += len(group)
        return count

    def _send(self, group: Sequence[Positioned], delivery: Delivery) -> None:
        record, end = group[-1]
        try:
            if record["kind"] == "metrics":
                delivery.metrics([point for point, _ in group])
            else:
                delivery.other(record)
        except Exception as error:
            if len(group) > 1 and (self._is_final(error, record) or delivery.answers()):
                for one in group:  # one bad point must not block the others
                    self._send([one], delivery)
            elif len(group) == 1 and self._should_put_aside(error, record, delivery):
                self._put_aside(record, end, error)
            else:
                raise
        else:
            self.spool.advance(record, end)
            self._failures = 0

    def _should_put_aside(self, error: Exception, record: Record, delivery: Delivery) -> bool:
        """Whether to skip this record: refused for good, or failing while all else works."""
        if self._is_final(error, record):
            return True
        self._failures += delivery.answers()
        return self._failures >= TRIES

    def _is_final(self, error: Exception, record: Record) -> bool:
        """Whether retrying is pointless: the server rejected it, or its file is gone."""
        gone = "file" in record and not (self.spool.folder / record["file"]).exists()
        return gone or getattr(error, "error_code", None) in _NEVER

    def _put_aside(self, record: Record, end: int, error: Exception) -> None:
        kept = self.spool.refuse(record, reason(error))
        self.spool.advance(record, end, refused=kept)
        self._failures = 0
        where = f"kept in {self.spool.folder}" if kept else f"dropped, as {self.spool.folder} holds too many"
        _log.warning("MLflow refuses %s, %s: %s", record.get("kind"), where, reason(error))


def send_spool(folder: Path, tracking_uri_override: str | None = None) -> int:
    """Send the unsent records of the runs under `folder` and return their number.

    They go to the server that each run logs to, unless another is given.
    """
    spools = sorted(
        file.parent for file in folder.rglob("run.json") if (file.parent / "points.jsonl").exists()
    )
    if not spools:
        raise TrackingError(f"{folder} holds no spool of MLflow points")
    count, problems = 0, []
    for one in spools:
        try:
            count += _send_one(one, tracking_uri_override)
        except TrackingError as error:
            problems.append(str(error))
    if problems:
        raise TrackingError(f"sent {count} records, but: " + "; ".join(problems))
    return count


def _send_one(folder: Path, override: str | None) -> int:
    try:
        spool = Spool(folder)
    except BlockingIOError:
        raise TrackingError(
            f"{folder} belongs to a run that is still going and sends its own points"
        ) from None
    about = spool.about()
    kept = str(about.get("tracking_uri", MASK))
    uri = override or (tracking_uri() if MASK in kept else kept)  # passwords are not stored
    try:
        if missing := NEEDED - about.keys():
            raise TrackingError(f"{folder}/run.json is damaged: it does not say {', '.join(sorted(missing))}")
        spool.retry_refused()
        return Sender(spool, uri).send() if spool.unsent(1) else 0
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"{mask(uri)} did not take the points in {folder}: {reason(error)}") from error
    finally:
        spool.close()


def reason(error: BaseException) -> str:
    """Return the first line of an error, without secrets; of an address that does not answer, no more."""
    if isinstance(error, TrackingError):
        return str(error)
    lines = str(error).strip().splitlines()
    if silent := re.match(
        r"API request to (\S+?://[^/\s]+)\S* failed with exception", lines[0] if lines else ""
    ):
        return mask(f"{silent[1]} does not answer")
    return mask(f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__)


def _groups(waiting: Sequence[Positioned]) -> Iterator[list[Positioned]]:
    """Group consecutive metrics up to MLflow's limit; every other record is its own group."""
    group: list[Positioned] = []
    size = 0
    for item in waiting:
        record = item[0]
        together = record["kind"] == "metrics" and size + len(record["values"]) <= METRICS_PER_REQUEST
        if group and not (together and group[0][0]["kind"] == "metrics"):
            yield group
            group, size = [], 0
        group.append(item)
        size += len(record.get("values", ()))
    if group:
        yield group
