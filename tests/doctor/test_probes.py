"""What is tried on a machine: a store, copies of datasets, ports, connections, MLflow; without a cluster."""

import itertools
import os
import re
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet import __main__ as commands
from qdet.launching.doctor import digests, gather, links, mlflow_server, store_probe
from qdet.training.joining.host import Host

SECRET = b"of this test"


def test_a_store_is_probed_and_nothing_is_left_of_it(tmp_path: Path):
    store = tmp_path / "outputs"
    with store_probe.open_probe(str(store)) as (name, content):
        found = store_probe.try_store(str(store), name, content, own="machine-1", size=2**21)
        assert (found.sees, found.error) == (True, None)
        assert (store / name / "machine-1").stat().st_size == 2**21
        assert store_probe.sees(str(store), name, "machine-1")
        assert found.write
        assert found.read
    assert not store.exists()
    store.mkdir()
    (store / "run").mkdir()
    with store_probe.open_probe(str(store)):
        pass
    assert [entry.name for entry in store.iterdir()] == ["run"]


def test_another_folder_of_the_same_name_is_not_the_store(tmp_path: Path):
    with store_probe.open_probe(str(tmp_path / "one")) as (name, content):
        other = str(tmp_path / "other")
        assert not store_probe.try_store(other, name, content, own="machine-1", size=1).sees
        assert not (tmp_path / "other").exists()
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / store_probe.DRIVER).write_bytes(b"of another day")
        found = store_probe.try_store(other, name, content, own="machine-1", size=1)
        assert (found.sees, found.error) == (False, "it reads other bytes than the driver wrote")


def test_a_store_behind_a_url_is_probed_alike(bucket: str):
    store = f"{bucket}/runs"
    with store_probe.open_probe(store) as (name, content):
        found = store_probe.try_store(store, name, content, own="machine-1", size=2**20)
        assert (found.sees, found.error) == (True, None)
        assert store_probe.sees(store, name, "machine-1")
    assert not store_probe.sees(store, name, "machine-1")


def _write_dataset(folder: Path, shards: int = 3) -> Path:
    folder.mkdir()
    for number in range(shards):
        (folder / f"t-{number:06d}.tar").write_bytes(bytes(range(256)) * (1 + number))
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (lambda copy: os.truncate(copy / "t-000001.tar", 10), "t-000001.tar"),
        (lambda copy: (copy / "t-000002.tar").unlink(), "t-000002.tar"),
        (lambda copy: (copy / "u-000000.tar").write_bytes(b""), "u-000000.tar"),
        (lambda copy: (copy / "manifest.json").write_text("[]"), "manifest.json"),
    ],
)
def test_a_copy_that_is_not_the_same_is_found_with_its_file(tmp_path: Path, harm, name: str):
    one, other = (_write_dataset(tmp_path / name) for name in ("one", "other"))
    assert digests.describe_copy(str(one)) == digests.describe_copy(str(other))
    harm(other)
    assert digests.describe_copy(str(one)).digest != digests.describe_copy(str(other)).digest
    listed = (digests.digest_files(str(folder)) for folder in (one, other))
    assert digests.find_difference(*listed) == name


def test_patterns_urls_and_what_is_not_there(tmp_path: Path):
    folder = _write_dataset(tmp_path / "one")
    found = digests.describe_copy(f"{folder}/t-{{000000..000002}}.tar")
    assert (found.files, found.bytes, found.error) == (3, 256 * 6, None)
    assert digests.describe_copy("s3://bucket/coco").files == 0
    assert digests.describe_copy(str(tmp_path / "none")).error == "No such file or directory"
    (tmp_path / "empty").mkdir()
    assert digests.describe_copy(str(tmp_path / "empty")).error == "no file is there"


def test_a_listening_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert gather.find_taken((port,), "127.0.0.1") == (port,)
    assert gather.find_taken((port,), "127.0.0.1") == ()


def test_facts_of_this_machine_are_those_of_its_own_tools():
    assert str(gather.find_open_files()) == _ask("ulimit -n").replace("unlimited", "-1")
    shown = _ask("df --output=size --block-size=1 /dev/shm | tail -n 1")
    space = gather.find_shared_memory()
    assert space is not None
    assert str(space.total) == shown
    python = _ask("python3 --version" if not os.environ.get("VIRTUAL_ENV") else "python --version")
    assert re.fullmatch(r"Python \d+\.\d+\.\d+\S*", python)
    software = gather.find_software()
    assert software.versions["torch"].partition("+")[0].count(".") == 2
    assert gather.find_software() == software


def _ask(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_who_knows_the_secret_connects_and_nobody_else():
    host = Host(("127.0.0.1", 0), SECRET)
    try:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            gone = closed.getsockname()[:2]
        assert links.reach([host.address], SECRET) == [None]
        (refused, stranger) = links.reach([gone], SECRET) + links.reach([host.address], b"another")
        assert refused == "Connection refused"
        assert stranger
    finally:
        host.close()


@given(st.integers(2, 200))
def test_every_neighbour_of_the_ring_is_measured_once_and_no_machine_is_in_two_pairs_of_a_round(count: int):
    rounds = links.choose_rounds(count)
    pairs = list(itertools.chain(*rounds))
    ring = {frozenset((one, (one + 1) % count)) for one in range(count)}
    assert {frozenset(pair) for pair in pairs} == ring
    assert len(pairs) == len(ring)
    for one in rounds:
        assert len(set(itertools.chain(*one))) == 2 * len(one)
    assert len(rounds) <= 3


@given(st.integers(2, 60))
def test_every_machine_is_tried_by_others_and_none_by_itself(count: int):
    targets = links.choose_targets(count)
    assert all(one not in others for one, others in enumerate(targets))
    tried = set(itertools.chain(*targets))
    assert tried == set(range(count))
    if count <= links.ALL_PAIRS:
        assert all(len(others) == count - 1 for others in targets)
    assert all(len(others) < links.ALL_PAIRS for others in targets)


class _Health(BaseHTTPRequestHandler):
    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("code", "said"), [(200, None), (401, None), (503, "it answers 503")])
def test_an_mlflow_server_is_up_where_it_answers(code: int, said: str | None, monkeypatch):
    monkeypatch.setattr(_Health, "code", code)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = mlflow_server.try_to_reach(f"http://127.0.0.1:{server.server_port}", 5.0)
        server.shutdown()
    assert found == said or (said and found and found.startswith(said))
    assert mlflow_server.try_to_reach("sqlite:////x/mlflow.db", 5.0) is None


def test_a_run_is_written_to_a_database_and_deleted_and_no_database_is_made(tmp_path: Path):
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert mlflow_server.try_to_write(uri, 5.0).error is None
    assert not (tmp_path / "mlflow.db").exists()
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments()
    found = mlflow_server.try_to_write(uri, 5.0)
    assert (found.error, found.local) == (None, True)
    experiment = client.get_experiment_by_name(mlflow_server.EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    assert run.info.lifecycle_stage == "deleted"
    assert run.data.metrics == {"probe": 1.0}
    client.delete_experiment(experiment.experiment_id)
    assert mlflow_server.try_to_write(uri, 5.0).error is None
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, but some bytes")
    assert mlflow_server.try_to_write(f"sqlite:///{tmp_path}/mlflow.db", 5.0).error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--patience", "0"], "--patience 0: must be above 0"),
        (["--ports", "70000"], "--ports 70000: a port is a number from 1 to 65535"),
        (["--data", "x/{0..3.tar"], "--data x/{0..3.tar: "),
        (
            ["--ray-address", "http://x:8265"],
            "--ray-address http://x:8265: training needs the head's own address",
        ),
    ],
)
def test_a_bad_flag_is_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        commands.main(["doctor", *flags])
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_machine_is_examined_without_ray(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    for name in ("RAY_ADDRESS", "QDET_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit) as left:
            commands.main(["doctor", "--ports", port, "--data", "missing"])
    assert left.value.code == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"wrong ports {os.uname().nodename}: something listens at port {port} already" in said
    assert f"{tmp_path}/missing: No such file or directory" in said
    assert "nodes this machine alone, without Ray" in said
    assert said.endswith("2 wrong") or ", " in said.rpartition(" wrong")[2]
    assert sorted(entry.name for entry in tmp_path.iterdir()) in ([], [".qdet"])
