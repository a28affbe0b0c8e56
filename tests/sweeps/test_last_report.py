"""How the driver of a trial says how that ended, without Ray."""

import queue
from types import SimpleNamespace

import pytest

from qdet.errors import ClusterError
from qdet.launching.ray_backend.sweeping import trial


def test_the_driver_waits_until_its_last_report_is_taken(monkeypatch):
    waiting: queue.Queue[dict] = queue.Queue()
    waiting.put({"epoch": 3})
    taken = []
    monkeypatch.setattr(trial.time, "sleep", lambda _: taken.append(waiting.get()))
    trial._report_last(SimpleNamespace(_training_actor_item_queue=waiting), {trial.ENDED: "finished"})
    assert taken == [{"epoch": 3}, {trial.ENDED: "finished"}]


def test_a_report_that_nobody_takes_ends_the_driver(monkeypatch):
    """Ray Tune starts it again; a driver that waits for ever would hold the whole sweep."""
    now = [0.0]
    monkeypatch.setattr(trial.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(trial.time, "monotonic", lambda: now[0])
    reports = SimpleNamespace(_training_actor_item_queue=queue.Queue())
    with pytest.raises(ClusterError, match="took no last report of a trial within 300 s"):
        trial._report_last(reports, {trial.ENDED: "finished"})
