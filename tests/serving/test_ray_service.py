"""The real thing: `qdet serve` on a Ray of its own, asked over loopback, stopped by a signal."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from qdet.inference.load import load
from tests.serving.test_app import parse
from tests.support.small_models import write_checkpoint
from tests.support.web import Site, image_bytes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
REPO = Path(__file__).resolve().parents[2]


@contextmanager
def served(folder: Path, *arguments: str, **environment: str) -> Iterator[tuple[Site, psutil.Process, Path]]:
    """Start the command; stop it, if the test has not, and see that nothing of it is left."""
    write_checkpoint(folder / "run", step=4)
    log = folder / "log.txt"
    inherited = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "QDET_SERVE_TOKEN")}
    with log.open("wb") as out:
        command = [sys.executable, "-m", "qdet", "serve", str(folder / "run"), "--port", "0", *arguments]
        process = psutil.Popen(
            command,
            cwd=folder,
            env=inherited | {"PYTHONPATH": str(REPO)} | environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        family: list[psutil.Process] = []
        try:
            port = _wait_for_port(process, log)
            family = process.children(recursive=True)
            yield Site(port), process, log
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0, log.read_text()
            assert "failed" not in log.read_text().partition("stopping:")[2], log.read_text()
        finally:
            for one in (process, *family) if process.is_running() else ():
                one.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive


def _wait_for_port(process: psutil.Popen, log: Path) -> int:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if found := re.search(r"serving at http://[\d.]+:(\d+)", log.read_text()):
            return int(found[1])
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def _listening(process: psutil.Process) -> set[str]:
    """Addresses at which the process and its descendants accept connections."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


def test_a_service_answers_on_loopback_only_survives_its_replica_and_ends_its_requests(tmp_path):
    # A proxy of the environment, where nothing listens, must not be asked for loopback.
    proxy = "http://127.0.0.1:9"
    with served(tmp_path, http_proxy=proxy, HTTP_PROXY=proxy, https_proxy=proxy) as (site, process, log):
        data = image_bytes()
        expected = load(tmp_path / "run", device="cpu").predict(data, score=0.0)
        answer = site.ask("/predict?score=0", data, content_type="image/png")
        assert answer.status == 200, answer.body
        found = answer.json["detections"]
        assert [one["label"] for one in found] == expected.labels.tolist()
        # Another number of threads adds up in another order.
        boxes = np.array([one["box_xyxy"] for one in found])
        np.testing.assert_allclose(boxes, expected.boxes_xyxy, atol=1e-3)
        assert site.ask("/predict", b"nothing").status == 415
        assert site.ask("/health").json == {"status": "ok"}
        values = parse(site.ask("/metrics").body.decode())
        assert values['qdet_requests_total{path="/predict",status="200"}'] == 1
        assert _listening(process) <= {"127.0.0.1", "::1"}

        replica = next(p for p in process.children(recursive=True) if _listens_at(p, site.port))
        replica.kill()
        _wait_until_healthy(site, log)
        assert site.ask("/predict", data).status == 200

        assert _stop_under_load(site, process) <= {200, ConnectionRefusedError}
        assert process.wait(timeout=120) == 0
    assert "Traceback" not in log.read_text()


def _stop_under_load(site: Site, process: psutil.Process) -> set[int | type[Exception]]:
    """Send SIGTERM while requests run; returns how they ended."""

    def ask(seed: int) -> int | type[Exception]:
        try:
            return site.ask("/predict", image_bytes(400, 400, seed=seed)).status
        except OSError as error:
            return type(error)

    with ThreadPoolExecutor(24) as threads:
        asked = [threads.submit(ask, seed) for seed in range(48)]
        assert asked[0].result() == 200
        process.send_signal(signal.SIGTERM)
        return {one.result() for one in asked}


def _listens_at(process: psutil.Process, port: int) -> bool:
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections())


def _wait_until_healthy(site: Site, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if site.ask("/health").status == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_two_replicas_behind_the_proxy_share_a_token_and_their_metrics(tmp_path):
    token = "only for this test"
    with served(tmp_path, "--replicas", "2", QDET_SERVE_TOKEN=token) as (site, process, log):
        assert site.ask("/predict", image_bytes()).status == 401
        allowed = Site(site.port, {"authorization": f"Bearer {token}"})
        with ThreadPoolExecutor(8) as threads:
            answers = list(
                threads.map(lambda seed: allowed.ask("/predict?score=0", image_bytes(seed=seed)), range(60))
            )
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 60
        time.sleep(12)  # both replicas report every 5 s
        values = parse(allowed.ask("/metrics").body.decode())
        assert values['qdet_requests_total{path="/predict",status="200"}'] == 60
        assert values["qdet_batch_images_sum"] == 60
        assert _listening(process) <= {"127.0.0.1", "::1"}
        assert not any(token in " ".join(p.cmdline()) for p in process.children(recursive=True))
        # 404 is the proxy's answer to what comes once the route is gone.
        assert _stop_under_load(allowed, process) <= {200, 404, ConnectionRefusedError}
        assert process.wait(timeout=120) == 0  # a second signal would end it at once
        assert token not in log.read_text()
