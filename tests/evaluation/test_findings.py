"""All findings together: two models, JSON, the terminal, and the page, also in a browser."""

import io
import json
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from qdet.errors import EvaluationError
from qdet.evaluation import DetectionRows, evaluate
from qdet.evaluation.as_json import as_plain
from qdet.evaluation.findings import Candidate, Findings, Options, analyse
from qdet.evaluation.html.page import page, wanted_photos
from qdet.evaluation.html.photos import Photo, Photos
from qdet.evaluation.terminal import show
from tests.evaluation.test_error_kinds import BOX, one_image
from tests.evaluation.test_matching import distinct

NASTY = '<script>alert(1)</script> & "it\'s" [red]'
EMPTY = [  # objects, detections
    ([], []),
    ([], [(1, BOX, 0.9)]),
    ([(1, BOX)], []),
]


def problem(seed: int = 0, images: int = 8) -> tuple[dict, DetectionRows]:
    truth, rows = distinct(seed, images)
    truth["categories"][0]["name"] = NASTY
    return truth, rows


def worse(rows: DetectionRows) -> DetectionRows:
    """Move every other box away."""
    boxes = rows.boxes_xywh.copy()
    boxes[::2, 0] += 60
    return DetectionRows(rows.image_ids, rows.category_ids, boxes, rows.scores, rows.seen)


def find(seed: int = 0, *, other: bool = False, **options) -> Findings:
    truth, rows = problem(seed)
    second = Candidate("other <b>model</b>", worse(rows)) if other else None
    return analyse(truth, Candidate("model & co", rows), data="data <i>set</i>", other=second, **options)


def photos(findings: Findings) -> Photos:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 120, 150)).save(out, format="JPEG")
    return {i: Photo(out.getvalue(), 320, 240) for i in wanted_photos(findings)}


def test_the_numbers_are_those_of_the_metrics():
    truth, rows = problem()
    found = find()
    metrics = evaluate(truth, rows)
    assert found.coco == metrics
    assert found.intervals.overall["AP"].value == pytest.approx(metrics.AP, abs=1e-12)
    assert pytest.approx(metrics.AP50, abs=1e-12) == found.errors.AP50
    assert found.objects == sum(not a["iscrowd"] for a in truth["annotations"])


def test_the_same_seed_gives_the_same_findings():
    assert json.dumps(as_plain(find())) == json.dumps(as_plain(find()))
    assert find().intervals != analyse(*_arguments(), options=Options(seed=1)).intervals


def _arguments() -> tuple[dict, Candidate]:
    truth, rows = problem()
    return truth, Candidate("model & co", rows)


def test_detections_of_other_images_are_refused():
    truth, rows = problem()
    truth["images"].append({"id": 999})
    with pytest.raises(EvaluationError, match="never evaluated: image id 999"):
        analyse(truth, Candidate("m", rows))


def test_a_model_does_not_differ_from_itself():
    truth, rows = problem()
    same = analyse(truth, Candidate("m", rows), other=Candidate("m too", rows)).comparison
    assert same is not None
    for name in ("AP", "AP50", "AP75"):
        change = same.metrics[name]
        assert (change.difference, change.low, change.high, change.better) == (0, 0, 0, 0.5)
        assert not change.certain


def test_exchanging_two_models_changes_the_sign():
    truth, rows = problem(images=40)
    first, second = Candidate("m", rows), Candidate("w", worse(rows))
    there = analyse(truth, first, other=second).comparison
    back = analyse(truth, second, other=first).comparison
    assert there is not None
    assert back is not None
    assert there.metrics["AP"].certain
    assert there.metrics["AP"].better < 0.05
    for a, b in ((there.metrics, back.metrics), (there.per_class, back.per_class)):
        for name in a:
            assert a[name].difference == pytest.approx(-b[name].difference, nan_ok=True)
            assert a[name].low == pytest.approx(-b[name].high, nan_ok=True)
            assert a[name].better == pytest.approx(1 - b[name].better, nan_ok=True)
    assert there.metrics["AR10"].difference == back.metrics["AR10"].first - there.metrics["AR10"].first


def test_json_is_one_object_of_unrounded_numbers():
    found = find(other=True, seconds={"decoder": 1.5})
    content = json.loads(json.dumps(as_plain(found), allow_nan=False))
    assert content["coco"]["AP"] == found.coco.AP
    assert content["coco"]["per_class"]["class 90"] is None
    assert content["errors"]["cost"] == dict(found.errors.cost)
    assert content["confusion"]["counts"] == found.confusion.counts.tolist()
    assert content["curves"]["per_class"]["class 90"]["threshold"] is None
    assert content["comparison"]["metrics"]["AP"]["difference"] == found.comparison.metrics["AP"].difference
    assert content["seconds"] == {"decoder": 1.5}
    assert len(content["curves"]["overall"]["precision_by_recall"]) == 101


def on_terminal(findings: Findings, width: int = 80) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width).print(show(findings, classes=2))
    return screen.getvalue()


def test_the_terminal_shows_names_as_they_are_and_numbers_in_percent():
    found = find(other=True, seconds={"decoder": 1.6})
    said = on_terminal(found, width=150)
    assert NASTY in said
    assert "other <b>model</b>" in said
    assert f"{100 * found.coco.AP:.1f}" in said
    assert "... 2 more" in said
    assert "decoder 200.0 ms" in said
    assert f"{found.labels.missing_total} perhaps missing" in said


def test_the_twelve_numbers_fit_into_80_columns():
    assert "…" not in on_terminal(find()).split("Classes")[0]


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what the page refers to."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value for name, value in attrs if name in ("href", "src", "action", "xlink:href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def read(content: str) -> Reader:
    reader = Reader()
    reader.feed(content)
    reader.close()
    assert not reader.open
    return reader


@pytest.mark.parametrize("other", [False, True])
def test_the_page_is_whole_and_refers_to_nothing_outside(other):
    found = find(other=other, seconds={"backbone": 2.0, "decoder": 1.0})
    reader = read(page(found, photos(found)))
    assert reader.references
    assert all(r.startswith("data:image/jpeg;base64,") for r in reader.references)
    assert reader.tags.count("script") == 1  # the page's own, none of a class name
    assert not {"link", "iframe", "img", "object"} & set(reader.tags)
    assert NASTY in reader.text
    assert "url(" not in page(found, {})
    for title in ("What costs AP", "Calibration", "by crowding", "Confusion", "Worst images", "Time"):
        assert title in reader.text
    assert ("Comparison" in reader.text) == other
    assert f"{100 * found.coco.AP:.1f}" in reader.text


def test_photographs_that_are_not_there_are_left_out():
    found = find()
    reader = read(page(found, {}))
    assert not reader.references
    assert "Worst images" not in reader.text


@pytest.mark.parametrize(("objects", "detections"), EMPTY)
def test_what_cannot_be_measured_is_a_dash(objects, detections):
    truth, rows = one_image(objects, detections)
    found = analyse(truth, Candidate("m", rows), other=Candidate("n", rows), seconds={"decoder": 0.0})
    reader = read(page(found, photos(found)))
    assert "nan" not in reader.text.lower()
    assert "nan" not in on_terminal(found).lower()
    json.dumps(as_plain(found), allow_nan=False)


def test_many_classes_show_those_confused_most():
    rng = np.random.default_rng(0)
    classes = 90
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": c, "name": f"c{c}"} for c in range(1, classes + 1)],
        "annotations": [
            {"id": c, "image_id": 1, "category_id": c, "bbox": [20.0 * c, 0, 10, 10], "iscrowd": 0}
            for c in range(1, classes + 1)
        ],
    }
    ids = np.arange(1, classes + 1)
    boxes = np.array([a["bbox"] for a in truth["annotations"]], np.float64)
    labels = np.where(ids % 3 == 0, ids % classes + 1, ids)
    rows = DetectionRows(
        np.ones(classes, np.int64), labels, boxes, rng.uniform(0.5, 1, classes), np.ones(1, np.int64)
    )
    reader = read(page(analyse(truth, Candidate("m", rows)), {}))
    assert "60 of 90 classes" in reader.text


@pytest.mark.parametrize("name", ["desktop", "phone"])
def test_a_browser_shows_the_page(name, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    found = find(other=True, seconds={"decoder": 1.0})
    (tmp_path / "report.html").write_text(page(found, photos(found)))
    width = {"desktop": 1200, "phone": 500}[name]
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600", "--hide-scrollbars",
         f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "report.html").as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert shown.shape[1] == width
    blue = (np.abs(shown - (37, 99, 235)).max(2) < 12).mean()  # the card with AP, bars, lines
    assert 0.01 < blue < 0.5
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 50
