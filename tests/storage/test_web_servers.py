"""Whether a file is there, as a web server says it: a server that gives no answer has not said no."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qdet.errors import StorageError
from qdet.storage import Folder, network
from qdet.storage.network import PAUSES


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    found = []
    monkeypatch.setattr(network, "sleep", found.append)
    return found


@contextmanager
def server(status):
    """A server on loopback that gives every question the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"pixels")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(("status", "size"), [(200, 6), (404, None), (403, None), (410, None)])
def test_a_server_that_answers_is_believed_at_once(status, size, pauses):
    with server(status) as url:
        assert Folder.open(url).size("street.jpg") == size
    assert not pauses


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_is_asked_again_and_then_named(status, pauses):
    with (
        server(status) as url,
        pytest.raises(StorageError, match=f"{url}/street.jpg cannot be read: {status}"),
    ):
        Folder.open(url).size("street.jpg")
    assert len(pauses) == len(PAUSES)


def test_a_server_that_is_away_is_asked_again_and_then_named(pauses):
    with server(200) as url:
        pass
    with pytest.raises(StorageError, match=f"{url}/street.jpg cannot be read: .*connect") as raised:
        Folder.open(url).size("street.jpg")
    assert raised.value.transient
    assert len(pauses) == len(PAUSES)
