"""Shared fixtures: recorded numbers, real images, seeds."""

import gc
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("qdet", deadline=None)  # time depends on the load of the machine
hypothesis.settings.load_profile("qdet")

REPO = Path(__file__).resolve().parent.parent
SERIAL = [
    REPO / "tests" / name
    for name in (
        "launch/test_status_after_driver.py",
        "launch/test_torchrun.py",
        "tracking/test_server_outage.py",
        "training/test_background_saving.py",
        "training/test_joining.py",
        "training/test_leaving.py",
        "training/test_watchdog.py",
    )
]
"""Files whose tests measure how long something takes. Slow trainings and clusters are run alone, too."""
SERIAL_IN = [REPO / "tests" / name for name in ("launch", "tracking", "training")]
"""Where `make test` looks for quick tests to run alone: collecting all takes longer than running these."""


def pytest_configure(config: pytest.Config) -> None:
    """Run Triton's programs in its interpreter, except where tests on a GPU are selected."""
    on_gpu = re.search(r"(?<!not )\bgpu\b", config.option.markexpr)
    if not on_gpu and "triton" not in sys.modules:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it as it is imported


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector from what collecting makes: nearly all of it lives to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # or every full collection of a test walks through millions of objects of all tests
        gc.enable()


def pytest_unconfigure() -> None:
    """Let what was collected end as it would have."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what must not share the machine with other tests, before -m selects."""
    for item in items:
        slow = item.get_closest_marker("slow") and not item.get_closest_marker("one_process")
        trains = slow and item.path.is_relative_to(REPO / "tests" / "training")
        if item.path in SERIAL or trains or item.get_closest_marker("ray"):
            item.add_marker("serial")
            if not item.get_closest_marker("slow") and not any(map(item.path.is_relative_to, SERIAL_IN)):
                raise pytest.UsageError(
                    f"{item.nodeid} runs alone: name its folder in SERIAL_IN and Makefile"
                )


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Numbers recorded from the authors' code."""
    return _folder("QDET_PARITY_DIR", REPO.parent / "shared" / "parity")


@pytest.fixture(scope="session")
def coco_root() -> Path:
    """A small real COCO dataset in the standard layout."""
    return _folder("QDET_COCO_ROOT", REPO.parent / "shared" / "coco128")


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with shards `train` (48 images) and `val` (16) of 64-pixel renderings."""
    from rich.console import Console

    from data_prep.coco_to_shards import Conversion, convert
    from data_prep.synthetic import SyntheticConfig, prepare

    root = tmp_path_factory.mktemp("demo")
    prepare(SyntheticConfig(out=root / "coco", train=48, val=16, size=64, workers=1))
    for split in ("train", "val"):
        conversion = Conversion(coco=root / "coco", split=split, out=root / split, processes=1)
        convert(conversion, console=Console(quiet=True))
    return root


@pytest.fixture
def make_coco(tmp_path: Path):
    """Write a COCO-format folder of random JPEGs `train`; returns it with its annotation dictionary."""
    import json

    import numpy as np
    import simplejpeg

    def make(images: int = 12, *, sizes=((40, 60), (50, 32), (32, 32)), name: str = "coco"):
        rng = np.random.default_rng(0)
        root = tmp_path / name
        (root / "train").mkdir(parents=True)
        (root / "annotations").mkdir()
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
        }
        for i in range(images):
            h, w = sizes[i % len(sizes)]
            pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((h // 8 + 1, w // 8 + 1, 1)))[:h, :w]
            file_name = f"image {i}.v1.jpg"
            data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels, dtype=np.uint8), quality=90)
            (root / "train" / file_name).write_bytes(data)
            content["images"].append({"id": 10 + i, "file_name": file_name, "height": h, "width": w})
            for k in range(i % 4):
                box = [2.5 + 3 * k, 4.0, 12.25, 9.0 + k]
                content["annotations"].append(
                    {
                        "id": 1 + len(content["annotations"]),
                        "image_id": 10 + i,
                        "bbox": box,
                        "area": box[2] * box[3] / 2,
                        "category_id": (3, 7)[k % 2],
                        "iscrowd": int(k == 2),
                    }
                )
        (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
        return root, content

    return make


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket on an S3 server of this machine, which the environment names."""
    from qdet.storage import filesystem as storage

    boto3, servers = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "of",
        "AWS_SECRET_ACCESS_KEY": "nobody",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    # All servers of a process have one store.
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"", timeout=30)
    boto3.client("s3").create_bucket(Bucket="shelf")
    try:
        yield "s3://shelf"
    finally:
        server.stop()
        storage._arrow.cache_clear()  # it asks the server of its day
