"""A set of shards in a folder, and an HTTP server on this machine that misbehaves as it is told."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@dataclass
class Server:
    """Serves a folder, and counts what it is asked for."""

    folder: Path
    url: str = ""
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """What goes wrong with the next answers for a file: 500, 403, cut, short, long, flip, slow or stall."""
    gets: Counter[str] = field(default_factory=Counter)
    together: int = 0
    """Most answers that were given at the same time."""
    over: threading.Event = field(default_factory=threading.Event)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    lock, running = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            with lock:
                server.gets[self.path] += 1
                running[0] += 1
                server.together = max(server.together, running[0])
            try:
                self._answer(body=True)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has had enough
            finally:
                with lock:
                    running[0] -= 1

        def _answer(self, *, body: bool) -> None:
            file = server.folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            with lock:
                fault = server.faults[self.path].pop(0) if body and server.faults[self.path] else ""
            if fault in ("500", "403"):
                self.send_error(int(fault))
                return
            data = file.read_bytes()
            if fault == "short":
                data = data[:-700]
            elif fault == "long":
                data += b"more"
            elif fault == "flip":
                data = data[:900] + bytes([data[900] ^ 1]) + data[901:]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self._send(data, fault)

        def _send(self, data: bytes, fault: str) -> None:
            if fault == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif fault == "stall":
                self.wfile.write(data[:100])
                self.wfile.flush()
                server.over.wait(20)
            elif fault == "slow":
                for begin in range(0, len(data), len(data) // 8 + 1):
                    self.wfile.write(data[begin : begin + len(data) // 8 + 1])
                    self.wfile.flush()
                    time.sleep(0.05)
            else:
                self.wfile.write(data)

    return Handler


@pytest.fixture
def serve() -> Iterator:
    """Start a `Server` for a folder; it ends with the test."""
    started = []

    def start(folder: Path) -> Server:
        server = Server(folder)
        http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        started.append((server, http))
        return server

    yield start
    for server, http in started:
        server.over.set()
        http.shutdown()
        http.server_close()


@pytest.fixture
def shards_folder(make_coco, tmp_path: Path) -> Path:
    """24 images in several shards."""
    from data_prep.coco_to_shards import Conversion, convert

    root, _ = make_coco(24)
    out = tmp_path / "shards"
    convert(Conversion(coco=root, split="train", out=out, shard_megabytes=0.012, processes=1))
    return out
