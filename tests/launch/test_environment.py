"""Environments of containers, notebooks and old terminals: commands work, or name the variable in a line."""

import asyncio
import getpass
import io
import pwd
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torch.distributed import HashStore

from qdet.errors import ConfigError
from qdet.launching.ray_backend import submit
from qdet.launching.runs.place import Place
from qdet.storage import surroundings
from qdet.training import distributed

WORLD = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def without(*names, **changes):
    return {name: value for name, value in WORLD.items() if name not in names} | changes


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (without("MASTER_ADDR"), "RANK=1 and WORLD_SIZE=2 are set, .*MASTER_ADDR, where they meet, is not"),
        (without("MASTER_PORT"), "MASTER_PORT, where they meet, is not"),
        (without("MASTER_ADDR", "MASTER_PORT"), "MASTER_ADDR and MASTER_PORT, .* are not: .*torchrun"),
        (without(MASTER_ADDR=""), "MASTER_ADDR"),
        (without(MASTER_PORT="http"), "MASTER_PORT='http' is set and is no number"),
        (without(RANK="2"), "RANK=2 and WORLD_SIZE=2 are set, but ranks go from 0 to WORLD_SIZE - 1"),
        (without(RANK="one"), "RANK='one' is set and is no number"),
        (without(RANK="-1"), "RANK='-1'"),
        (without(WORLD_SIZE=""), "WORLD_SIZE=''"),
        (without(WORLD_SIZE="0", RANK="0"), "WORLD_SIZE=0"),
        (without(LOCAL_RANK="x"), "LOCAL_RANK='x'"),
    ],
)
def test_variables_that_make_no_meeting_are_named(environment, said):
    with pytest.raises(ConfigError, match=said):
        Place.of_torchrun(environment)


@pytest.mark.parametrize(
    "environment",
    [{}, {"RANK": "3"}, {"WORLD_SIZE": "4"}, {"RANK": "0", "WORLD_SIZE": "1"}, {"LOCAL_RANK": "x"}],
)
def test_one_process_needs_no_meeting(environment):
    assert Place.of_torchrun(environment) == Place()


def test_torchruns_own_variables_are_read():
    assert Place.of_torchrun(
        WORLD | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "1"}
    ) == Place(1, 0, "node1")


def test_a_group_of_one_needs_no_port_and_no_secret(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert isinstance(distributed._open_store(None, 5), HashStore)


class TestLog:
    class Client:
        def __init__(self, parts):
            self.parts, self.cancelled = parts, threading.Event()

        async def tail_job_logs(self, job):
            try:
                for part in self.parts:
                    await asyncio.sleep(0.001)
                    yield part
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

    def follow(self, parts):
        shown = []
        submit._Log(self.Client(parts), "job", shown.append).follow()
        return "".join(shown)

    def test_a_log_is_followed_without_and_within_an_event_loop(self):
        async def notebook():
            return self.follow(["a\n", "b\n"])

        assert self.follow(["a\n", "b\n"]) == asyncio.run(notebook()) == "a\nb\n"

    def test_an_error_of_the_log_is_raised_where_it_is_followed(self):
        class Broken:
            async def tail_job_logs(self, job):
                raise ConnectionError("the head is gone")
                yield

        async def notebook():
            submit._Log(Broken(), "job", print).follow()

        with pytest.raises(ConnectionError, match="gone"):
            asyncio.run(notebook())

    def test_ctrl_c_within_an_event_loop_ends_the_log(self, monkeypatch):
        client = self.Client(iter(lambda: "line\n", None))

        class Interrupted(submit.Future):
            def result(self, timeout=None):
                raise KeyboardInterrupt

        async def notebook():
            submit._Log(client, "job", lambda text: None).follow()

        monkeypatch.setattr(submit, "Future", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(notebook())
        assert client.cancelled.wait(10)


class TestUser:
    @pytest.fixture(autouse=True)
    def nobody(self, monkeypatch, tmp_path):
        """A user whom the password file does not know, as containers start one."""

        def unknown(number):
            raise KeyError(f"getpwuid(): uid not found: {number}")

        monkeypatch.setattr(pwd, "getpwuid", unknown)
        monkeypatch.setattr(surroundings.tempfile, "gettempdir", lambda: str(tmp_path))
        for name in ("HOME", *surroundings._NAMES):
            monkeypatch.delenv(name, raising=False)

    def test_a_user_without_name_and_home_gets_both(self, tmp_path):
        with pytest.raises((KeyError, OSError)):
            getpass.getuser()
        with pytest.raises(RuntimeError, match="home directory"):
            Path.home()
        assert surroundings.expand("~/x").is_relative_to(tmp_path)
        surroundings.name_user()
        assert getpass.getuser().startswith("user")
        assert Path.home().stat().st_mode & 0o777 == 0o700

    def test_what_is_set_stays(self, monkeypatch):
        monkeypatch.setenv("HOME", "/somewhere")
        monkeypatch.setenv("LOGNAME", "me")
        surroundings.name_user()
        assert (str(Path.home()), getpass.getuser()) == ("/somewhere", "me")

    def test_a_folder_of_another_user_is_no_home(self, monkeypatch, tmp_path):
        elsewhere = tmp_path / "theirs"
        elsewhere.mkdir()
        number = surroundings.os.getuid()
        (tmp_path / f"qdet-home-{number}").symlink_to(elsewhere)
        with pytest.raises(ConfigError, match="another user's; set HOME"):
            surroundings.name_user()

    def test_the_home_of_a_user_who_is_not_there_is_named(self):
        with pytest.raises(ConfigError, match="~nobody-here/x"):
            surroundings.expand("~nobody-here/x")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_streams_escape_what_they_cannot_show(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    surroundings.print_anything(stream, None, io.StringIO())
    stream.write("caf\u00e9 \u732b \udce9")
    stream.flush()
    assert raw.getvalue().decode(encoding).startswith("caf")
    assert b"\\udce9" in raw.getvalue()


def test_a_command_says_what_is_wrong_in_an_ascii_terminal(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "qdet", "caf\u00e9"],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONIOENCODING": "ascii:strict",
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"there is no command caf\\xe9" in done.stderr
    assert b"Traceback" not in done.stderr
