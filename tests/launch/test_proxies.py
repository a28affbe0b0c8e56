"""A proxy in the environment: never for what speaks to this machine, and named where a remote host fails."""

import json
import os
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.errors import StorageError
from qdet.launching.ray_backend import head
from qdet.storage import network
from qdet.storage.proxies import LOOPBACK, exempt_loopback, exempt_loopback_here, name_proxy

NOBODY = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOBODY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use


@pytest.fixture
def server():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args):
            pass

    found = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


@pytest.mark.usefixtures("proxy")
def test_a_head_on_loopback_is_reached_past_the_proxy(server: str):
    assert not head._is_healthy(server)  # as it was
    exempt_loopback_here()
    assert head._is_healthy(server)


@pytest.mark.usefixtures("proxy")
def test_other_libraries_reach_loopback_too(server: str):
    """MLflow's and Ray's clients use requests, urllib3 or httpx."""
    code = f"import requests, httpx; requests.get({server!r}); httpx.get({server!r}); print('reached')"
    environment = os.environ | exempt_loopback(os.environ)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "reached\n", done.stderr


def test_what_the_user_exempts_stays_exempt_and_nothing_changes_without_a_proxy():
    assert exempt_loopback({"PATH": "/bin", "no_proxy": "a.example"}) == {}
    found = exempt_loopback({"HTTPS_PROXY": NOBODY, "no_proxy": "a.example, 10.0.0.0/8", "NO_PROXY": "b"})
    assert found["no_proxy"] == found["NO_PROXY"] == "a.example,10.0.0.0/8,b,127.0.0.1,localhost,::1"


@given(st.lists(st.sampled_from(["a.example", *LOOPBACK, "", " "])))
def test_asking_twice_changes_nothing_more(listed: list[str]):
    environment = {"http_proxy": NOBODY, "no_proxy": ",".join(listed)}
    once = environment | exempt_loopback(environment)
    assert once | exempt_loopback(once) == once
    assert set(LOOPBACK) <= set(once["NO_PROXY"].split(","))


@pytest.mark.usefixtures("proxy")
def test_the_proxy_is_named_where_a_remote_host_is_not_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(network, "PAUSES", ())

    def fails():
        raise ConnectionError("refused")

    with pytest.raises(StorageError, match=f"cannot be read through the proxy {NOBODY}: refused"):
        network.retry("http://data.example/train/a.tar", fails)
    exempt_loopback_here()
    assert name_proxy("http://127.0.0.1:8000/x") == ""


def test_a_heads_variables_can_be_evaluated_in_a_folder_of_any_name():
    values = {"RAY_AUTH_TOKEN_PATH": '/home/me/my $HOME\'s "project"/token', "A": "plain"}
    record = head.Head(
        pid=1, born=None, address="127.0.0.1:6379", dashboard="http://127.0.0.1:8265", agent="x",
        environment=values,
    )  # fmt: skip
    code = "import json, os; print(json.dumps({n: os.environ[n] for n in ('A', 'RAY_AUTH_TOKEN_PATH')}))"
    shell = f'eval "$0"; {sys.executable} -c "$1"'
    done = subprocess.run(
        ["bash", "-c", shell, head.export_lines(record), code], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == values
