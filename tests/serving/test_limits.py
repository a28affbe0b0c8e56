"""Bytes, pixels, files, time, the queue, the token: nothing gets past them, or spoils other requests."""

import io
import socket
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
from PIL import Image

from qdet.inference.model import Model
from qdet.serving.settings import TokenCheck
from tests.serving.conftest import SMALL
from tests.support.web import form, image_bytes

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@dataclass(frozen=True)
class Blocking:
    """The model's runner, which waits until the test lets it go on, or fails."""

    inner: object
    gate: threading.Event
    error: Exception | None = None

    @property
    def device(self):
        return self.inner.device

    def __call__(self, images, sizes_hw, original_hw):
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return self.inner(images, sizes_hw, original_hw)


def blocked(model: Model, *, error: Exception | None = None) -> tuple[Model, threading.Event]:
    gate = threading.Event()
    return replace(model, runner=Blocking(model.runner, gate, error)), gate


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


def test_too_many_pixels_are_refused_by_the_header_alone(shared_site):
    for data in (png(60_000, 60_000, b""), png(2**31 - 1, 2**31 - 1, b""), image_bytes(700, 600, "jpeg")):
        answer = shared_site.ask("/predict", data, content_type="image/png")
        assert answer.status == 413, answer.body
        assert "400,000 pixels" in answer.json["error"]


def test_a_decompression_bomb_of_an_honest_size_is_not_inflated(shared_site):
    """The data of a 32-pixel image goes on for 20 MB more than it has pixels."""
    bomb = png(32, 32, bytes(32 * (1 + 3 * 32)) + bytes(20_000_000))
    assert len(bomb) < 30_000
    assert shared_site.ask("/predict", bomb, content_type="image/png").status in (200, 422)


def test_text_bombs_in_png_are_refused(shared_site):
    data = image_bytes()
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000), 9))
    assert shared_site.ask("/predict", data[:33] + text + data[33:]).status in (200, 422)


def test_bytes_are_counted_as_they_come(shared_site):
    small, large = image_bytes(), bytes(SMALL.max_bytes + 1)
    answer = shared_site.send(HEAD + b"Content-Length: 999999999999999999999999\r\n\r\n")
    assert answer.status in (400, 413)
    answer = shared_site.send(HEAD + f"Content-Length: {len(large)}\r\n\r\n".encode())
    assert answer.status == 413  # before any of it came
    assert f"{SMALL.max_bytes:,} bytes" in answer.json["error"]
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    assert shared_site.send(chunked, *[chunk] * 6).status == 413  # the end never comes
    one = f"{len(small):x}\r\n".encode() + small + b"\r\n0\r\n\r\n"
    assert shared_site.send(chunked, one).status == 200
    body, kind = form(large)
    assert shared_site.ask("/predict", body, content_type=kind).status == 413


def test_forms_are_limited_in_files_and_fields(shared_site):
    body, kind = form(*[image_bytes()] * 4)
    answer = shared_site.ask("/predict", body, content_type=kind)
    assert (answer.status, "Too many files" in answer.json["error"]) == (413, True)
    part = b'--limit\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    answer = shared_site.ask("/predict", part * 50 + b"--limit--\r\n", content_type=kind)
    assert (answer.status, "Too many fields" in answer.json["error"]) == (413, True)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data; boundary=limit"),
        (b"--limit--\r\n", "multipart/form-data; boundary=limit"),
        (form(image_bytes())[0], "multipart/form-data"),
        (form(image_bytes())[0], "multipart/form-data; boundary=other"),
        (form(image_bytes())[0], "multipart/form-data; boundary=" + "x" * 300),
        (form(image_bytes())[0][:-12], "multipart/form-data; boundary=limit"),
        (form(b"")[0], "multipart/form-data; boundary=limit"),
        (b"--limit\r\nContent-Disposition: form-data\r\n\r\n1\r\n--limit--\r\n",
         "multipart/form-data; boundary=limit"),
        (b'--limit\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--limit--\r\n',
         "multipart/form-data; boundary=limit"),
        (b"--limit\r\n\xff\xfe: \x00\r\n\r\n1\r\n--limit--\r\n", "multipart/form-data; boundary=limit"),
    ],
)  # fmt: skip
def test_broken_forms_are_refused(shared_site, body, content_type):
    answer = shared_site.ask("/predict", body, content_type=content_type)
    assert answer.status == 400, answer.body
    assert set(answer.json) == {"error"}


def test_other_files_and_types_are_refused(shared_site):
    gif = io.BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "gif")
    for data, kind in (
        (gif.getvalue(), "image/png"), (b"PK\x03\x04" + bytes(100), "application/octet-stream"),
        (b"<svg/>", "image/jpeg"), (image_bytes(), "image/gif"), (image_bytes(), "text/html"),
        (image_bytes(), "application/x-www-form-urlencoded"), (b"[]", "application/json"),
    ):  # fmt: skip
        assert shared_site.ask("/predict", data, content_type=kind).status == 415


def test_damaged_images_are_refused_without_addresses_of_objects(shared_site):
    for data in (
        image_bytes(kind="jpeg")[:-200],
        image_bytes()[:-100],
        image_bytes(kind="webp")[:60],
        image_bytes()[:20],
    ):
        answer = shared_site.ask("/predict", data)
        assert answer.status == 422, answer.body
        assert answer.json["error"].startswith("image 0 ")
        assert "0x" not in answer.json["error"]


def test_sixteen_bits_of_grey_are_taken(shared_site):
    deep = io.BytesIO()
    Image.new("I;16", (8, 8)).save(deep, "png")
    assert shared_site.ask("/predict", deep.getvalue()).status == 200


def test_slow_uploads_time_out(make_site):
    site = make_site(limits=replace(SMALL, upload_seconds=0.3))
    answer = site.send(HEAD + b"Content-Length: 1000\r\n\r\n", b"x", pause=0.0)
    assert answer.status == 408
    assert site.ask("/predict", image_bytes()).status == 200


def test_a_full_queue_and_a_slow_model_answer_503(make_site, model):
    slow, gate = blocked(model)
    site = make_site(slow, limits=replace(SMALL, queue=4, answer_seconds=1.0), batch_size=2)
    body, kind = form(image_bytes(), image_bytes())
    with ThreadPoolExecutor(12) as threads:
        asked = [threads.submit(site.ask, "/predict", body, content_type=kind) for _ in range(12)]
        answers = [one.result() for one in asked]
    assert {answer.status for answer in answers} == {503}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    reasons = {answer.json["error"].partition(";")[0] for answer in answers}
    assert "too many requests wait for the model" in reasons
    assert "the model did not answer within 1 s" in reasons
    assert site.ask("/health").status == 503
    gate.set()
    assert site.ask("/predict", image_bytes()).status == 200
    assert site.ask("/health").status == 200


def test_clients_that_leave_are_forgotten(make_site, model):
    slow, gate = blocked(model)
    site = make_site(slow, limits=replace(SMALL, queue=4), batch_size=1)
    data = image_bytes()
    for _ in range(12):
        with socket.create_connection(("127.0.0.1", site.port)) as connection:
            connection.sendall(HEAD + f"Content-Length: {len(data)}\r\n\r\n".encode() + data[:50])
    gate.set()
    answers = [site.ask("/predict", data).status for _ in range(3)]
    assert answers[-1] == 200


def test_a_failing_model_is_one_line_for_the_client_and_503_for_health(make_site, model):
    broken, gate = blocked(model, error=RuntimeError("secret of the machine"))
    gate.set()
    site = make_site(broken)
    answer = site.ask("/predict", image_bytes())
    assert (answer.status, answer.json) == (500, {"error": "the service failed; its log says why"})
    answer = site.ask("/health")
    assert answer.status == 503
    assert b"secret" not in answer.body


def test_a_token_is_asked_for_where_there_is_one(make_site):
    site = make_site(token=TokenCheck.of("correct horse battery"))
    right = {"authorization": "Bearer correct horse battery"}
    data = image_bytes()
    for headers in (
        {}, {"authorization": "correct horse battery"}, {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic correct horse battery"}, {"authorization": "Bearer correct horse batterY"},
    ):  # fmt: skip
        for path in ("/predict", "/classes", "/metrics", "/openapi.json", "/nothing"):
            answer = site.ask(path, data if path == "/predict" else None, **headers)
            assert answer.status == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
    assert site.ask("/predict", data, **right).status == 200
    assert site.ask("/nothing", **right).status == 404
    assert site.ask("/health").status == site.ask("/docs").status == 200
    assert site.ask("/openapi.json", **right).json["security"] == [{"token": []}]
    twice = (
        b"GET /classes HTTP/1.1\r\nHost: x\r\n"
        + 2 * b"Authorization: Bearer correct horse battery\r\n"
        + b"\r\n"
    )
    assert site.send(twice).status == 401


def test_one_bad_image_does_not_spoil_its_batch(make_site, model):
    slow, gate = blocked(model)
    site = make_site(slow, batch_size=4)
    good, bad = image_bytes(64, 64, "jpeg"), image_bytes(64, 64, "jpeg")[:-150]
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(site.ask, "/predict", data) for data in (good, bad, good, bad)]
        gate.set()
        assert [one.result().status for one in asked] == [200, 422, 200, 422]
