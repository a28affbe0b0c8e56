"""What clients get: the numbers of `Model.predict`, classes, health, documentation, metrics."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from qdet.serving.documentation import ERRORS
from tests.support.web import form, image_bytes


def as_reply(found, model):
    """What `predict` found, as JSON has it after a round trip."""
    description = model.description
    return {
        "detections": [
            {
                "label": int(k),
                "name": model.classes.names[k],
                "score": float(s),
                "box_xyxy": [float(x) for x in b],
            }
            for k, s, b in zip(found.labels, found.scores, found.boxes_xyxy, strict=True)
        ],
        "width": found.size_hw[1],
        "height": found.size_hw[0],
        "model": {"name": description.name, "step": description.step, "averaged": description.averaged},
    }


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("jpeg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp"),
     ("jpeg", "application/octet-stream"), ("png", "image/jpeg; charset=x"), ("webp", None)],
)  # fmt: skip
def test_answers_are_those_of_predict(shared_site, model, kind, content_type):
    data = image_bytes(50, 90, kind, seed=3)
    sent = {} if content_type is None else {"content_type": content_type}
    answer = shared_site.ask("/predict", data, **sent)
    assert answer.status == 200, answer.body
    expected = model.predict(data, batch=1, score=0.0)
    assert len(expected) > 5
    assert answer.json == as_reply(expected, model)
    boxes = np.array([one["box_xyxy"] for one in answer.json["detections"]])
    assert np.array_equal(boxes.astype(np.float32), expected.boxes_xyxy)  # no bit is lost on the way


def test_a_form_of_several_files_is_a_list_in_their_order(shared_site, model):
    files = [image_bytes(64, 64, seed=seed) for seed in (1, 2, 3)]
    body, kind = form(*files)
    answer = shared_site.ask("/predict?score=0.2", body, content_type=kind)
    assert answer.json == [
        as_reply(one.above(0.2), model) for one in model.predict(files, batch=3, score=0.0)
    ]
    body, kind = form(files[1])
    assert shared_site.ask("/predict", body, content_type=kind).json == as_reply(
        model.predict(files[1], score=0.0), model
    )


def test_images_are_turned_upright(shared_site, model):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = image_bytes(50, 90, "jpeg", exif=exif)
    reply = shared_site.ask("/predict", data, content_type="image/jpeg").json
    assert (reply["width"], reply["height"]) == (50, 90)
    assert reply == as_reply(model.predict(data, score=0.0), model)


def test_score_max_and_size_are_those_asked_for(shared_site, make_site, model):
    data = image_bytes(60, 60, seed=5)
    whole = model.predict(data, size=96, score=0.0)
    middle = float(np.median(whole.scores))
    answer = shared_site.ask(f"/predict?size=96&score={middle}&max=3", data)
    assert 1 <= len(answer.json["detections"]) <= 3
    assert answer.json == as_reply(whole.above(middle)[:3], model)
    reply = make_site(score=0.5, detections=2).ask("/predict", data).json
    assert reply == as_reply(model.predict(data, score=0.0).above(0.5)[:2], model)


@pytest.mark.parametrize(
    ("query", "named"),
    [("score=2", "score"), ("score=nan", "score"), ("score=x", "score"), ("max=0", "max"), ("max=51", "max"),
     ("scor=0.5", "scor is no parameter; there are score, max, size. Did you mean score?"),
     ("score=0.1&score=0.9", "score is given 2 times"), ("conf=0.5", "conf is no parameter"),
     ("max=1.5", "max"), ("size=8", "size"), ("size=129", "size"), ("size=99999999999999999999", "size")],
)  # fmt: skip
def test_parameters_that_cannot_be_used_are_named(shared_site, query, named):
    answer = shared_site.ask(f"/predict?{query}", image_bytes())
    assert answer.status == 422
    assert answer.json["error"].startswith(named), answer.json


def test_unknown_paths_and_methods_are_refused_in_plain_words(shared_site):
    for path, method, status in (
        ("/nothing", "GET", 404), ("/predict", "GET", 405), ("/health", "POST", 405),
        ("/predict", "DELETE", 405), ("/%00", "GET", 404), ("/..%2f", "GET", 404),
    ):  # fmt: skip
        answer = shared_site.ask(path, method=method)
        assert answer.status == status, path
        assert set(answer.json) == {"error"}
        assert "Traceback" not in answer.json["error"]


def test_classes_have_labels_and_ids_of_the_dataset(shared_site, model):
    assert shared_site.ask("/classes").json == [
        {"label": 0, "name": "circle", "id": 3},
        {"label": 1, "name": "square", "id": 7},
        {"label": 2, "name": "star", "id": 11},
    ]


def test_health_is_ok_where_the_model_answers(shared_site):
    answer = shared_site.ask("/health")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


def test_openapi_names_classes_examples_and_every_error(shared_site, model):
    api = shared_site.ask("/openapi.json").json
    detection = api["components"]["schemas"]["Detection"]["properties"]
    assert detection["name"]["enum"] == list(model.classes.names)
    post = api["paths"]["/predict"]["post"]
    example = post["responses"]["200"]["content"]["application/json"]["example"]
    assert set(example) == {"detections", "width", "height", "model"}
    assert set(example["detections"][0]) == set(detection)
    assert set(post["requestBody"]["content"]) == {
        "image/jpeg", "image/png", "image/webp", "application/octet-stream", "multipart/form-data"
    }  # fmt: skip
    assert {p["name"] for p in post["parameters"]} == {"score", "max", "size"}
    assert {int(code) for code in post["responses"]} - {200} == set(ERRORS) - {404, 405}
    assert "securitySchemes" not in api["components"]
    _resolve(api, api)


def _resolve(node, api):
    """Follow every reference of the document."""
    if isinstance(node, dict):
        if "$ref" in node:
            assert node["$ref"].rpartition("/")[2] in api["components"]["schemas"]
        for value in node.values():
            _resolve(value, api)
    elif isinstance(node, list):
        for value in node:
            _resolve(value, api)


def test_the_page_needs_nothing_from_elsewhere(shared_site):
    home = shared_site.ask("/")
    assert (home.status, home.headers["location"]) == (307, "docs")
    page = shared_site.ask("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.body.decode()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "http" not in text.replace("<!doctype html>", "")


def test_metrics_count_requests_batches_and_images(make_site):
    site = make_site()
    for _ in range(3):
        assert site.ask("/predict", image_bytes()).status == 200
    site.ask("/predict", b"no image")
    site.ask("/made-up")
    body, kind = form(image_bytes(), image_bytes())
    site.ask("/predict", body, content_type=kind)
    answer = site.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = parse(answer.body.decode())
    assert values['qdet_requests_total{path="/predict",status="200"}'] == 4
    assert values['qdet_requests_total{path="/predict",status="415"}'] == 1
    assert values['qdet_requests_total{path="other",status="404"}'] == 1
    assert values["qdet_batch_images_count"] == 4
    assert values["qdet_batch_images_sum"] == 5
    assert values['qdet_request_seconds_count{path="/predict"}'] == 5
    assert values["qdet_waiting_images"] == values["qdet_running_requests"] == 0


def parse(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_errors_are_json_objects(shared_site):
    answer = shared_site.ask("/predict", b"")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "error": "the body is empty; send the bytes of a JPEG, PNG or WebP image"
    }
