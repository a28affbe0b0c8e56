"""The driver looks at each dataset once before any worker starts, and says which one fails."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from qdet.config import override
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, TrainingError
from qdet.job import Job, Sweep
from qdet.launching import graceful_stop, paths
from qdet.launching.local import run_locally
from qdet.launching.preflight.check import check
from qdet.launching.preflight.dry_run import describe
from qdet.launching.ray_backend import capacity, connect, train
from qdet.launching.ray_backend.sweeping import conduct, search
from qdet.launching.runs import session
from qdet.launching.runs.prepared import prepare
from qdet.launching.runs.sweeps import session as sweeps_session
from qdet.search import Choice
from qdet.tracking import MLflowTracker, NullTracker


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        self.server.asked.append(args[0])  # type: ignore[attr-defined]  # the list set by `served`


@pytest.fixture
def served(demo_shards: Path) -> Iterator[tuple[str, list[str]]]:
    """URL of the demo's shards, and all requests to their server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(demo_shards)))
    server.asked = []  # type: ignore[attr-defined]  # for `_Quiet`
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def job(served, tmp_path: Path) -> Job:
    url, _ = served
    settings = {"data.train": f"{url}/train", "data.val": f"{url}/val", "data.cache": str(tmp_path / "cache")}
    return override(Job(name="a").demo(), settings | {"store.path": str(tmp_path / "runs")})


def test_the_driver_reads_only_the_manifest_of_a_url(job: Job, served, demo_shards: Path, tmp_path):
    prepared = prepare(job)
    check(prepared)
    found, local = prepared.train, ShardSet.open(demo_shards / "train")
    assert (found.images, found.digest, found.categories) == (48, local.digest, local.categories)
    assert not (tmp_path / "cache").exists()
    assert not [asked for asked in served[1] if asked.startswith("GET") and ".tar" in asked]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.train": "{url}/nowhere"}, r"--data\.train: http.*/nowhere holds no shards"),
        ({"data.val": "http://127.0.0.1:9/val"}, r"--data\.val: http://127\.0\.0\.1:9/val/.* cannot be read"),
        ({"data.train": "{url}/t-{{0..3}}.tar"}, r"--data\.train: http.*/t-0\.tar is not there"),
        ({"train.batch_size": 64}, "--train.batch-size 64 is more than the 48 images"),
        (
            {"data.reading": "sequential", "data.samples": 8},
            "--train.batch-size 16 is more than the 8 images",
        ),
        ({"data.reading": "sequential", "data.train": "{url}/nowhere"}, r"--data\.train: .* holds no shards"),
    ],
)
def test_missing_remote_datasets_are_named_before_workers_start(changes, said, job, served, monkeypatch):
    monkeypatch.setattr("qdet.storage.network.PAUSES", ())
    here = {path: v.format(url=served[0]) if isinstance(v, str) else v for path, v in changes.items()}
    with pytest.raises(ConfigError, match=said):
        check(prepare(override(job, here)))


def test_other_categories_behind_a_url_are_refused(job: Job, make_coco, tmp_path):
    from data_prep.coco_to_shards import Conversion, convert

    root, _ = make_coco(4)
    convert(Conversion(coco=root, split="train", out=tmp_path / "other", processes=1))
    with pytest.raises(ConfigError, match="do not have the same categories"):
        check(prepare(override(job, {"data.val": str(tmp_path / "other")})))


def test_mlflow_logs_the_digests_of_remote_datasets(job: Job, demo_shards: Path):
    logged = []

    class Tracker(NullTracker):
        def dataset(self, *about) -> None:
            logged.append(about)

    session._log_inputs(Tracker(), prepare(job))
    digests = [
        json.loads((demo_shards / s / "manifest.json").read_text())["digest"] for s in ("train", "val")
    ]
    classes = len(ShardSet.open(demo_shards / "val").categories.names)
    assert logged == [
        ("train", digests[0], job.data.train, "training", {"images": 48, "classes": classes}),
        ("val", digests[1], job.data.val, "validation", {"images": 16, "classes": classes}),
    ]


class _Offline(NullTracker):
    """An MLflow run that is not there."""

    mlflow_run_id = None

    def wait_for_run(self, seconds: float) -> None:
        return None


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let drivers come as far as the first worker: no cluster, no MLflow, no witness, no training."""
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    private = connect.Connection(address="", private=True)
    monkeypatch.setattr(connect, "connect", lambda address: private)
    monkeypatch.setattr(connect, "disconnect", lambda: None)
    monkeypatch.setattr(capacity, "wait_for_workers", lambda train, *, seconds: False)
    monkeypatch.setattr(MLflowTracker, "open", lambda *args, **kwargs: _Offline())
    monkeypatch.setattr(session, "witnessed", lambda *args: nullcontext())
    for module in (session, sweeps_session):
        monkeypatch.setattr(module, "prepare_database", lambda uri: None)
    monkeypatch.setattr(graceful_stop, "WorkerStop", lambda run: SimpleNamespace(request=lambda: None))
    monkeypatch.setattr(
        train, "fit", lambda *args, **kwargs: {"stopped": True, "step": 1, "steps": 2, "why": ""}
    )
    result = SimpleNamespace(stopped=True, step=1, steps=2, why="")
    monkeypatch.setattr("qdet.training.loop.train", lambda *args, **kwargs: result)


def _start_workers(job: Job) -> None:
    with pytest.raises(SystemExit):
        train.run_on_ray(job)


def _start_locally(job: Job) -> None:
    with pytest.raises(SystemExit):
        run_locally(job)


def _start_sweep(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(given: conduct.Conduct, folder: Path) -> SimpleNamespace:
        given.left = given.course.waiting
        asked.extend(given.suggest() or {} for _ in range(3))
        return SimpleNamespace(fit=lambda: [given.report(n, ended) for n in (1, 2, 3)])

    asked: list[dict] = []
    ended = {"qdet_ended": "failed", "qdet_error": "as planned", "step": 12, "val/AP": 0.1}
    monkeypatch.setattr(capacity, "list_nodes", lambda: [capacity.Node(9.0, 0.0)])
    monkeypatch.setattr(search, "worker_environment", lambda job, *, gpu: {})
    monkeypatch.setattr("qdet.launching.runs.sweeps.session.witnessed", lambda *args: nullcontext())
    monkeypatch.setattr(search, "start_coordinator", lambda: None)
    monkeypatch.setattr(search, "build_tuner", build)
    space = {"train.batch_size": Choice((8, 16))}
    with pytest.raises(TrainingError, match="all 3 trials failed; the first: as planned"):
        search.search(job, Sweep(space=space, trials=3, concurrent=3))
    assert [one["trial"] for one in asked] == [1, 2, 3]


STARTS = {
    "dry run": lambda job, _: describe(prepare(job)),
    "on Ray": lambda job, _: _start_workers(job),
    "here": lambda job, _: _start_locally(job),
    "sweep": _start_sweep,
}
_OPENED: list[str] = []
sys.addaudithook(lambda event, args: _OPENED.append(str(args[0])) if event == "open" else None)


@pytest.mark.parametrize("where", ["folder", "URL", "sequential URL"])
@pytest.mark.parametrize("start", STARTS)
def test_each_split_is_opened_once(
    start, where, job: Job, served, driver, demo_shards, tmp_path, monkeypatch
):
    """Counted are the files that this process opens, and the answers that a server gives."""
    if where == "folder":
        job = override(job, {f"data.{split}": str(demo_shards / split) for split in ("train", "val")})
    elif where == "sequential URL":
        job = override(job, {"data.reading": "sequential"})
    _OPENED.clear()
    served[1].clear()
    STARTS[start](job, monkeypatch)
    if where == "folder":
        folders = [Path(name).parent for name in _OPENED if name.endswith("/manifest.json")]
        assert Counter(folders) == {demo_shards / "train": 1, demo_shards / "val": 1}
        assert not served[1]
    else:
        asked = Counter(request.split()[1] for request in served[1] if request.startswith("GET"))
        assert asked == {"/train/manifest.json": 1, "/val/manifest.json": 1}
    assert not ray.is_initialized()  # a Ray left running would be another test's cluster
