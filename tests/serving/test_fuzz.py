"""Nothing that a client sends makes the service fail: every status is one of those documented."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.serving.documentation import ERRORS
from tests.support.web import Answer, form, image_bytes

SEEDS = [image_bytes(40, 56, kind, seed=1) for kind in ("jpeg", "png", "webp")]
TYPES = st.sampled_from(
    [
        "image/jpeg",
        "image/png",
        "application/octet-stream",
        "multipart/form-data; boundary=limit",
        "text/plain",
    ]
)
PRINTABLE = st.text(string.ascii_letters + string.digits + ";=\"'/- ", max_size=40)


def check(answer: Answer) -> None:
    assert answer.status == 200 or answer.status in ERRORS, answer.body
    if answer.status != 200:
        assert set(answer.json) == {"error"}
        assert "Traceback" not in answer.json["error"]
        assert "0x7f" not in answer.json["error"]


@st.composite
def mutated(draw, seeds=SEEDS) -> bytes:
    """A file with bytes changed, cut out, doubled, inserted, or its end cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "header", "cut", "insert", "double", "truncate"])):
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "header" if data:
                data[at % min(64, len(data))] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=40))
            case "double":
                data[at:at] = data[at : at + 200]
            case _:
                del data[at:]
    return bytes(data)


@settings(max_examples=150)
@given(mutated(), st.sampled_from(["image/jpeg", "image/png", "image/webp", "application/octet-stream"]))
def test_mutated_images(shared_site, data, content_type):
    check(shared_site.ask("/predict", data, content_type=content_type))


@settings(max_examples=60)
@given(mutated([form(*SEEDS)[0], form(SEEDS[0])[0]]), TYPES)
def test_mutated_forms(shared_site, data, content_type):
    check(shared_site.ask("/predict", data, content_type=content_type))


@settings(max_examples=60)
@given(st.binary(max_size=300), TYPES | PRINTABLE, st.text(max_size=20))
def test_anything_at_all(shared_site, data, content_type, query):
    from urllib.parse import quote

    check(shared_site.ask(f"/predict?score={quote(query)}", data, content_type=content_type.strip()))


def test_the_service_still_answers(shared_site):
    assert shared_site.ask("/predict", SEEDS[0]).status == 200
