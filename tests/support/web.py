"""A service on a free loopback port, in a thread, and a client that speaks HTTP as clients of any kind do."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import uvicorn
from PIL import Image

from qdet.serving.app import create_app
from qdet.serving.service import Service


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    """An address to ask."""

    port: int
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(
        self, path: str, body: bytes | None = None, *, method: str | None = None, **headers: str
    ) -> Answer:
        """GET, or POST where there is a body; `content_type` and other headers by name."""
        sent = dict(self.headers) | {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
            return _read(connection.getresponse())
        finally:
            connection.close()

    def send(self, *parts: bytes, pause: float = 0.0) -> Answer:
        """Send bytes as they are, with pauses, and read the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            for part in parts:
                try:
                    connection.sendall(part)
                except OSError:  # it has answered and closed already
                    break
                time.sleep(pause)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return _read(response)


@contextmanager
def serve(service: Service) -> Iterator[Site]:
    """Run the service's application until the end of the block."""
    config = uvicorn.Config(create_app(service), port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Site(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def image_bytes(height: int = 48, width: int = 64, kind: str = "png", *, seed: int = 0, **options) -> bytes:
    """A file of coarse random colours."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(out, kind, **options)
    return out.getvalue()


def form(*files: bytes, boundary: str = "limit", name: str = "file") -> tuple[bytes, str]:
    """A multipart body of these files, and its content type."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{i}.png"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for i, data in enumerate(files)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _read(response: http.client.HTTPResponse) -> Answer:
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
