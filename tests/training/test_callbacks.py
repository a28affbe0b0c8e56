"""A user's callbacks: called with what happened, and unable to change it."""

import threading
from pathlib import Path

import pytest

from qdet import Callbacks, Job
from qdet.config import override
from qdet.errors import ConfigError
from qdet.launching import cli
from qdet.tracking import NullTracker
from qdet.training.hooks import calling
from qdet.training.hooks.calling import check_callbacks
from qdet.training.loop import train
from qdet.training.reporting import LocalReporter, Run
from tests.support.ranks import tiny_job


class Recorder(Callbacks):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told = []

    def on_step(self, progress):
        self.told.append(("step", progress.step))

    def on_evaluation(self, step, metrics):
        self.told.append(("evaluation", step, metrics["val/AP"]))

    def on_checkpoint(self, step, folder):
        self.told.append(("checkpoint", step, (Path(folder) / "manifest.json").is_file()))

    def on_end(self, ended):
        self.told.append(("end", ended.how, ended.step, ended.metrics.get("val/AP")))


class Noisy(Recorder):
    """Raises whenever it is told something."""

    def on_step(self, progress):
        super().on_step(progress)
        raise RuntimeError("mine")

    def on_evaluation(self, step, metrics):
        raise SystemExit(1)

    def on_end(self, ended):
        super().on_end(ended)
        raise KeyboardInterrupt


@pytest.fixture
def job(demo_shards: Path, tmp_path: Path) -> Job:
    changes = {"train.steps": 4, "train.checkpoint_every": 2, "store.path": str(tmp_path)}
    return override(tiny_job(demo_shards), changes)


def run(job: Job, *callbacks: Callbacks, name: str = "one", stop=lambda: False):
    where = Run(name, job.store.path)
    return train(job, run=where, reporter=LocalReporter(stop), tracker=NullTracker(), callbacks=callbacks)


def test_callbacks_are_told_what_happened_in_order(job: Job):
    recorder = Recorder()
    result = run(job, recorder)
    ap = result.metrics["val/AP"]
    steps = [told for told in recorder.told if told[0] == "step"]
    assert steps == [("step", i) for i in (1, 2, 3, 4)]
    checkpoints = [told for told in recorder.told if told[0] == "checkpoint"]
    assert checkpoints == [("checkpoint", 2, True), ("checkpoint", 4, True)]
    assert ("evaluation", 4, ap) in recorder.told
    assert recorder.told[-1] == ("end", "finished", 4, ap)


def test_what_a_callback_raises_changes_nothing_and_is_said_once(job: Job, capsys):
    plain = run(job, name="plain")
    capsys.readouterr()
    broken = Noisy()
    result = run(job, broken, name="broken")
    shown = capsys.readouterr().out
    assert result.metrics["val/AP"] == plain.metrics["val/AP"]
    assert [told[0] for told in broken.told].count("step") == 4
    assert broken.told[-1][0] == "end"
    assert shown.count("callback Noisy: on_step raised RuntimeError: mine") == 1


def test_a_callback_that_hangs_is_left_behind(job: Job, capsys, monkeypatch):
    release = threading.Event()

    class Hanging(Callbacks):
        def on_step(self, progress):
            release.wait()

    monkeypatch.setattr(calling, "PATIENCE", 0.2)
    assert run(job, Hanging()).step == 4
    assert "callback Hanging: on_step did not return within 0.2 s" in capsys.readouterr().out
    release.set()


def test_a_stop_and_a_failure_are_told_apart(job: Job, monkeypatch):
    stopped, failed = Recorder(), Recorder()
    run(job, stopped, stop=lambda: True)
    assert stopped.told[-1][:2] == ("end", "stopped")

    def fails(self, step, micro_batches):
        raise RuntimeError("no memory")

    monkeypatch.setattr("qdet.training.step.StepMaker.make", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        run(job, failed, name="failing")
    assert failed.told == [("end", "failed", 0, None)]


def test_what_is_no_callback_or_cannot_be_sent_is_refused():
    class Open(Callbacks):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    with pytest.raises(ConfigError, match=r"int is no qdet\.Callbacks"):
        check_callbacks([3], sent=False)
    check_callbacks([Open()], sent=False)
    with pytest.raises(ConfigError, match="callback Open cannot be sent to a worker"):
        check_callbacks([Open()], sent=True)


def test_launch_passes_them_on(monkeypatch: pytest.MonkeyPatch):
    given = []
    monkeypatch.setattr("qdet.launching.local.run_locally", lambda job, callbacks: given.extend(callbacks))
    mine = Recorder()
    cli.launch(Job(name="a"), callbacks=[mine], args=["--local"])
    assert given == [mine]
