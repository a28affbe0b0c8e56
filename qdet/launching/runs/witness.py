"""A small process that outlives the driver, to say in MLflow that the run was killed when the driver cannot.

`kill -9` lets no process speak. The witness holds the read end of a pipe: when the driver ends without
a goodbye there, the run is marked KILLED. A machine that loses power takes its witness along; such a run
stays RUNNING until it is resumed.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from qdet.storage.parsing import parse_json
from qdet.training.reporting import Run

GOODBYE = b"ended\n"
CAUSE = "the driver ended without a status, as after kill -9 or out of memory"


@contextmanager
def witnessed(run: Run, experiment: str, tracking_uri: str) -> Iterator[None]:
    """Have the block witnessed: if this process dies inside of it, the MLflow run is marked KILLED."""
    command = [sys.executable, "-m", "qdet.launching.runs.witness"]
    about = {"run": run.name, "store": run.store, "hash": run.hash, "id": run.mlflow_run_id}
    about |= {"experiment": experiment, "uri": tracking_uri, "term": run.fence and str(run.fence.number)}
    try:
        # A session of its own: signals for the driver's group are not for the witness.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    except OSError:  # no process is left for it: training matters more
        yield
        return
    pipe = process.stdin
    try:
        if pipe is not None:
            pipe.write(json.dumps(about).encode() + b"\n")
            pipe.flush()
        yield
    finally:
        if pipe is not None:
            try:
                pipe.write(GOODBYE)
                pipe.close()
            except OSError:  # the witness has already ended
                pass
        process.wait()


def main() -> None:
    """Wait for the end of the pipe, and speak for a driver that did not."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    about = sys.stdin.buffer.readline()
    if not about or sys.stdin.buffer.readline() == GOODBYE:
        return
    known = parse_json(about)
    _mark_killed(known)
    for trial in _find_dead_trials(known):
        _mark_killed(trial)


def _mark_killed(about: dict[str, str | None]) -> None:
    """Send what the run's processes had left on this machine, and end it."""
    import contextlib
    import time

    from qdet.errors import TrackingError
    from qdet.launching.paths import spool_folder
    from qdet.launching.runs import record
    from qdet.tracking import MLflowTracker, has_ended, send_spool

    store, name = str(about["store"]), str(about["run"])
    last = _let_go(about)
    stopped = record.status(store, name) == record.STOPPED_EARLY  # by its sweep, which says so in MLflow
    if last and not stopped:
        record.set_status(store, name, "killed")
    noted = record.status(store, name)
    time.sleep(2.0)  # workers end with their driver, and write until then
    for process in ("driver", "worker", "sweep"):
        with contextlib.suppress(TrackingError):
            send_spool(spool_folder(name, process))
    if not last or stopped or record.status(store, name) != noted:
        return  # another driver has resumed it, or its sweep says how it ended
    if about["id"] and has_ended(about["id"], str(about["uri"])):
        return
    tracker = MLflowTracker.open(
        spool_folder(name, "witness"),
        experiment=str(about["experiment"]),
        run_name=name,
        run_hash=about["hash"],
        run_id=about["id"],
        tracking_uri=str(about["uri"]),
    )
    tracker.tags({"qdet.cause": CAUSE})
    tracker.close("KILLED", wait=60.0)


def _find_dead_trials(about: dict[str, str | None]) -> list[dict[str, str | None]]:
    """Describe the trials of a sweep whose drivers have ended with it: Ray ends their witnesses, too.

    None of a run that is no sweep, or where the store does not answer.
    """
    import re

    from qdet.checkpoint import open_folder
    from qdet.checkpoint.run_names import list_runs
    from qdet.errors import QdetError
    from qdet.launching.runs import record
    from qdet.storage.lease import Terms

    store, sweep = str(about["store"]), str(about["run"])
    found: list[dict[str, str | None]] = []
    try:
        folder = open_folder(store)
        if folder.child(sweep).size(record.SWEEP) is None:
            return found
        for name in list_runs(folder):
            if not re.fullmatch(re.escape(sweep) + r"-t\d+", name):
                continue
            terms, known = Terms(folder.child(name)), record.read(store, name)
            view = terms.view()
            owner, _ = terms.holder(view.number)
            if known.status == "running" and owner is not None and owner.is_gone():
                own = {"run": name, "id": known.mlflow_run_id, "hash": known.hash, "term": str(view.number)}
                found.append(about | own)
    except (QdetError, OSError):  # what was found so far counts
        pass
    return found


def _let_go(about: dict[str, str | None]) -> bool:
    """Release the dead driver's lease, if it has one; return whether no other driver has the run by now."""
    from qdet.checkpoint import open_folder
    from qdet.errors import QdetError
    from qdet.storage.lease import Fence, Terms

    if about["term"] is None:
        return True
    try:
        terms = Terms(open_folder(str(about["store"])).child(str(about["run"])))
        fence = Fence(terms, int(about["term"]))
        if not fence.holds():
            return False
        terms.release(fence.number)
    except (QdetError, OSError):  # the lease ends by itself
        pass
    return True


if __name__ == "__main__":
    main()
