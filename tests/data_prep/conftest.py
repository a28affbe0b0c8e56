"""A loopback server that cuts off, stalls and sends errors on request."""

import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

BODY = random.Random(0).randbytes(3 * 2**20 + 17)


class Server(ThreadingHTTPServer):
    """Serves `files`; each request consumes one of `faults`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file": BODY}
        self.faults: list = []
        self.requests: list = []
        self.etag = '"one"'
        self.ranges = True

    def handle_error(self, *_):
        """Stay quiet: the tests break connections on purpose."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        fault = server.faults.pop(0) if server.faults else None
        body = server.files.get(self.path)
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if body is None:
            self.send_error(404)
            return
        begin = int(re.match(r"bytes=(\d+)-$", asked)[1]) if asked and server.ranges else 0
        if self.headers.get("If-Range", server.etag) != server.etag:
            begin = 0
        if begin and begin >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            shown = begin + 5 if fault == "wrong range" else begin
            self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        sent = body[begin:]
        if isinstance(fault, tuple):
            sent = sent[: fault[1]]
        if fault == "flip":
            sent = sent[:100] + bytes([sent[100] ^ 1]) + sent[101:]
        self.wfile.write(sent)
        if isinstance(fault, tuple) and fault[0] == "stall":
            self.server.stalled.wait(5)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    server.stalled = threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.stalled.set()
    server.shutdown()
    server.server_close()
    thread.join()
