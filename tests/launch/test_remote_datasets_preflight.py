"""What the driver reads of datasets behind URLs before any worker starts, and its errors."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qdet.config import override
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching.datasets import known
from qdet.launching.preflight.check import check
from qdet.launching.runs import session


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
    check(job)
    found, local = known(job, "train"), ShardSet.open(demo_shards / "train")
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
        check(override(job, here))


def test_other_categories_behind_a_url_are_refused(job: Job, make_coco, tmp_path):
    from data_prep.coco_to_shards import Conversion, convert

    root, _ = make_coco(4)
    convert(Conversion(coco=root, split="train", out=tmp_path / "other", processes=1))
    with pytest.raises(ConfigError, match="do not have the same categories"):
        check(override(job, {"data.val": str(tmp_path / "other")}))


def test_mlflow_logs_the_digests_of_remote_datasets(job: Job, demo_shards: Path):
    logged = []

    class Tracker:
        def dataset(self, *about: str) -> None:
            logged.append(about)

        def __getattr__(self, name: str):
            return lambda *args, **kwargs: None

    session._log_inputs(Tracker(), job)  # type: ignore[arg-type]  # all that it uses of a tracker
    digests = [
        json.loads((demo_shards / s / "manifest.json").read_text())["digest"] for s in ("train", "val")
    ]
    assert logged == [
        ("train", digests[0], job.data.train, "training"),
        ("val", digests[1], job.data.val, "validation"),
    ]
