"""How the driver of a trial says how that ended, without a cluster."""

import queue
import threading
from types import SimpleNamespace

import pytest
from ray.train._internal.session import _TrainSession
from ray.tune.result import RESULT_DUPLICATE

from qdet.errors import ClusterError
from qdet.launching.ray_backend.sweeping import trial


class HandedOut(queue.Queue):
    """Reports on their way to Ray Tune's thread, which is slow to go on after it has taken one."""

    def get(self, *args, **kwargs):
        taken = super().get(*args, **kwargs)
        self.driver.join(1)
        return taken


def session_of(reports: queue.Queue) -> _TrainSession:
    """Ray's own session of a driver, as far as reports need it."""
    session = _TrainSession.__new__(_TrainSession)
    session.result_queue, session._inter_actor_queue = queue.Queue(1), reports
    session.continue_lock, session.stop_event = threading.Semaphore(0), threading.Event()
    session.ignore_report, session.detailed_autofilled_metrics = False, False
    session.iteration, session.time_total, session.last_report_time = 0, 0.0, 0.0
    session.local_ip, session.metadata = "127.0.0.1", None
    session.storage = SimpleNamespace(
        persist_artifacts=lambda force: None,
        sync_config=SimpleNamespace(sync_artifacts_on_checkpoint=False),
    )
    return session


def test_a_driver_that_has_reported_is_no_hindrance_to_its_own_report(monkeypatch):
    """A driver that returned as soon as its report was taken stopped Ray Tune's thread for ever."""
    monkeypatch.setattr(trial, "TAKEN", 4.0)
    reports, results = HandedOut(), []
    session = session_of(reports)

    def drive() -> None:
        try:
            trial._report_last(SimpleNamespace(_training_actor_item_queue=reports), {trial.ENDED: "finished"})
        except ClusterError:
            return
        session.report({RESULT_DUPLICATE: True})  # as Ray Tune does for a driver that returned

    reports.driver = threading.Thread(target=drive, daemon=True)
    tune = threading.Thread(
        target=lambda: results.append(session._get_result_from_queues(block=True)), daemon=True
    )
    reports.driver.start()
    tune.start()
    tune.join(10)
    assert [result.metrics[trial.ENDED] for result in results] == ["finished"]


def test_a_report_that_nobody_takes_ends_the_driver(monkeypatch):
    """Ray Tune starts it again; a driver that waits for ever would hold the whole sweep."""
    now, reports = [0.0], queue.Queue()
    monkeypatch.setattr(trial.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(trial.time, "monotonic", lambda: now[0])
    with pytest.raises(ClusterError, match="took no last report of a trial within 300 s"):
        trial._report_last(SimpleNamespace(_training_actor_item_queue=reports), {trial.ENDED: "finished"})
    assert reports.get() == {trial.ENDED: "finished"}
