"""A training asks a server that is away for minutes, a command for seconds; what is wrong stays wrong."""

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import ClientPayloadError, ClientResponseError, RequestInfo
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from qdet.checkpoint import RunFolder, open_folder
from qdet.checkpoint.run_folder import Retention
from qdet.data.image.view import View
from qdet.data.loading.substitutes import Candidates, read_or_substitute
from qdet.errors import CheckpointError, DataError, StorageError
from qdet.launching.exit_status import exit_on_user_error
from qdet.launching.ray_backend.failures import _find_user_error
from qdet.storage import network
from qdet.storage.network import PATIENCE, patient, retry

ADDRESS = "http://shards.example/train-000000.tar"


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now, self.pauses = 1000.0, []

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(network, "sleep", fake.sleep)
    monkeypatch.setattr(network, "monotonic", lambda: fake.now)
    monkeypatch.delenv(PATIENCE, raising=False)
    return fake


def answer(status, **headers):
    """The error of a server's answer."""
    named = CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}))
    url = URL(ADDRESS)
    return ClientResponseError(RequestInfo(url, "GET", named, url), (), status=status, headers=named)


AWAY = [
    ConnectionRefusedError("refused"),
    ConnectionResetError("reset"),
    TimeoutError("no byte for a minute"),
    answer(500),
    answer(503),
    answer(429),
    answer(408),
    ClientPayloadError("cut"),
    OSError("When reading: AWS Error NETWORK_CONNECTION during GetObject operation"),
]
WRONG = [
    answer(403),
    answer(410),
    PermissionError("no"),
    ssl.SSLCertVerificationError("self-signed"),
    OSError("AWS Error ACCESS_DENIED during GetObject operation"),
]


class Server:
    """Fails until some moment."""

    def __init__(self, clock, error, back_after):
        self.clock, self.error, self.back = clock, error, clock.now + back_after
        self.asked = 0

    def __call__(self):
        self.asked += 1
        if self.clock.now < self.back:
            raise self.error
        return b"content"


@pytest.mark.parametrize("error", AWAY, ids=repr)
@pytest.mark.parametrize("seconds", [10, 120, 280])
def test_a_training_outlasts_an_outage_of_minutes(clock, error, seconds):
    with patient():
        assert retry(ADDRESS, Server(clock, error, seconds)) == b"content"
    assert max(clock.pauses) <= network.LONGEST_PAUSE * (1 + network.JITTER)


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_an_outage_longer_than_that_is_a_fault_and_not_the_users(clock, error):
    with patient(), pytest.raises(StorageError, match=r"shards\.example.* cannot be read") as raised:
        retry(ADDRESS, Server(clock, error, 10**6))
    assert raised.value.transient
    assert network.MINUTES <= clock.now - 1000 < network.MINUTES + 2 * network.LONGEST_PAUSE


def test_a_command_gives_up_after_seconds(clock):
    server = Server(clock, ConnectionRefusedError("refused"), 10**6)
    with pytest.raises(StorageError):
        retry(ADDRESS, server)
    assert server.asked == 4
    assert clock.now - 1000 < 5


@pytest.mark.parametrize("error", WRONG, ids=repr)
def test_what_a_server_refuses_is_asked_for_once(clock, error):
    server = Server(clock, error, 10**6)
    with patient(), pytest.raises(StorageError) as raised:
        retry(ADDRESS, server)
    assert server.asked == 1
    assert not raised.value.transient


def test_wrong_content_is_fetched_a_few_times_only(clock):
    server = Server(clock, ValueError("its sha256 is not the one that is listed"), 10**6)
    with patient(), pytest.raises(StorageError) as raised:
        retry(ADDRESS, server)
    assert server.asked == 4
    assert not raised.value.transient


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_is_left_alone_for_as_long_as_it_asks(clock, form):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    error = answer(503, Retry_After="90" if form == "seconds" else later)
    with patient():
        assert retry(ADDRESS, Server(clock, error, 80)) == b"content"
    assert len(clock.pauses) == 1
    assert clock.pauses[0] == pytest.approx(90, abs=3)


@given(st.text(max_size=20) | st.integers().map(str))
def test_no_retry_after_makes_a_wait_longer_than_the_patience(said):
    pause = network._pause(answer(503, Retry_After=said), 0, 300.0)
    assert pause is not None
    assert 0 < pause <= 300


def test_pauses_differ_between_processes(clock):
    for _ in range(5):
        retry(ADDRESS, Server(clock, TimeoutError("late"), 0.1))
    assert len(set(clock.pauses)) == 5


def test_patience_is_the_users_where_the_variable_is_set(clock, monkeypatch):
    monkeypatch.setenv(PATIENCE, "20")
    with patient(), pytest.raises(StorageError):
        retry(ADDRESS, Server(clock, TimeoutError("late"), 10**6))
    assert clock.now - 1000 < 60
    monkeypatch.setenv(PATIENCE, "long")
    with pytest.raises(StorageError, match="QDET_PATIENCE_S=long: not a number"):
        retry(ADDRESS, Server(clock, TimeoutError("late"), 10**6))


def transient(kind):
    error = kind("http://shards.example/a.tar cannot be read: 503")
    error.transient = True
    return error


def test_ray_starts_workers_again_after_an_outage_and_not_after_a_mistake():
    assert _find_user_error(transient(DataError)) is None
    assert isinstance(_find_user_error(DataError("no such image")), DataError)


@pytest.mark.parametrize(("error", "code"), [(transient(DataError), 75), (DataError("wrong"), 1)])
def test_the_exit_code_says_whether_to_start_again(error, code, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        exit_on_user_error(fail)
    assert ended.value.code == code
    assert "Traceback" not in capsys.readouterr().err


def test_images_of_a_server_that_is_away_are_not_replaced():
    def read(row, view):
        raise transient(DataError)

    class NoCandidates(Candidates):
        def __init__(self):
            pass

        def after(self, sample):
            raise AssertionError("a substitute was looked for")

    view = object.__new__(View)  # is read by nobody
    with pytest.raises(DataError) as raised:
        read_or_substitute(read, 0, view, candidates=NoCandidates(), sample=0)
    assert raised.value.transient


def test_a_store_that_is_away_has_no_damaged_checkpoints(tmp_path, monkeypatch):
    (tmp_path / "run" / "step_000001").mkdir(parents=True)
    (tmp_path / "run" / "step_000002").mkdir()
    run = RunFolder(open_folder(tmp_path / "run"))

    def away(*_):
        raise transient(CheckpointError)

    monkeypatch.setattr("qdet.checkpoint.run_folder.read_manifest", away)
    monkeypatch.setattr("qdet.checkpoint.run_folder.verify", away)
    for act in (lambda: run.newest_good(print), lambda: run.tidy(Retention())):
        with pytest.raises(CheckpointError):
            act()
    assert len(run.steps()) == 2
