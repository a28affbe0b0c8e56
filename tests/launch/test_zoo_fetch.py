"""`qdet zoo fetch`, `qdet evaluate` of what it wrote, and the check of all files: on random weights.

The files have the authors' exact names and layout; only their sizes are small. A server on this machine
stands in for the authors'.
"""

import functools
import hashlib
import json
import threading
from argparse import Namespace
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PosixPath

import pytest
import torch
from rich.console import Console

import qdet
from benchmarks import published as check_all
from data_prep.coco_to_shards import Conversion, convert
from qdet import zoo
from qdet.__main__ import main, parse
from qdet.backbones.download import cached_path, kept_digest
from qdet.convert import published
from qdet.convert.published import FILES, PublishedFile
from qdet.errors import CheckpointError, ConfigError
from qdet.inference.judging.published import PublishedAP, published_ap
from qdet.launching.commands.models.fetching import CARD, fetch
from tests.support.published import small_checkpoint


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that is served, its address, and a cache of its own."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("QDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.fixture
def served(site, parity_dir, monkeypatch):
    """A small Conditional DETR-DC5 of random weights as its authors save it, under a name in the table."""
    folder, address = site
    _, _, theirs = small_checkpoint(parity_dir, "conditional_detr_dc5_r50")
    theirs = {key: t.abs() if "running_var" in key else t / 20 for key, t in theirs.items()}  # all finite
    args = Namespace(nheads=4, dilation=True, output_dir=PosixPath("out"))
    torch.save({"model": theirs, "epoch": 49, "args": args}, folder / "weights.pth")
    entry = PublishedFile(
        url=f"{address}/weights.pth?id=7", page="https://authors.example", licence="MIT", ap=43.7, dc5=True
    )
    monkeypatch.setitem(FILES, "conditional_detr_r50_dc5", entry)
    return folder / "weights.pth", entry


NAME = "conditional_detr_r50_dc5"


def test_a_file_is_fetched_converted_and_described(served, tmp_path, capsys):
    file, entry = served
    main(["zoo", "fetch", NAME, "--to", str(tmp_path / "model")])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert kept_digest(entry.url) == digest
    card = (tmp_path / "model" / CARD).read_text()
    for fact in (NAME, digest, "MIT", "43.7", "https://authors.example", "`detr`", "not published"):
        assert fact in card
    assert "--store.init-from" in capsys.readouterr().out
    job = qdet.load(tmp_path / "model", device="cpu").description.job
    assert (job["published.ap"], job["published.name"], job["published.sha256"]) == (43.7, NAME, digest)
    assert (job["data.augment.pipeline"], job["data.augment.pad_multiple"], job["eval.batch_size"]) == (
        "detr",
        1,
        1,
    )


def test_a_file_that_was_replaced_is_refused(served, tmp_path):
    file, entry = served
    fetch(NAME, tmp_path / "first")
    cached_path(entry.url).unlink()
    torch.save({"model": {"a": torch.ones(3)}}, file)
    with pytest.raises(CheckpointError, match=r"its first download had .* --file PATH"):
        fetch(NAME, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_published_digest_decides(served, tmp_path, monkeypatch):
    file, entry = served
    monkeypatch.setitem(FILES, NAME, replace(entry, sha256="0123abcd"))
    with pytest.raises(CheckpointError, match=r"expected 0123abcd.*--file-sha256"):
        fetch(NAME, tmp_path / "model")
    with pytest.raises(CheckpointError, match="expected 0123abcd"):
        fetch(NAME, tmp_path / "model", file=file)
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(FILES, NAME, replace(entry, sha256=digits))
    assert fetch(NAME, tmp_path / "model").title.startswith("Conditional DETR")


def test_a_page_instead_of_a_file_is_not_kept(served, tmp_path):
    file, entry = served
    file.write_text("<!DOCTYPE html> virus scan warning")
    with pytest.raises(CheckpointError, match=r"no PyTorch file.*by hand \(MIT\).*--file PATH"):
        fetch(NAME, tmp_path / "model")
    assert kept_digest(entry.url) is None
    assert not cached_path(entry.url).exists()


def test_without_a_network_it_says_what_to_do_by_hand(served, tmp_path, monkeypatch):
    file, entry = served
    monkeypatch.setitem(FILES, NAME, replace(entry, url="http://127.0.0.1:9/weights.pth"))
    with pytest.raises(
        CheckpointError, match=r"https://authors\.example by hand .* zoo fetch \w+ --file PATH"
    ):
        fetch(NAME, tmp_path / "model")
    monkeypatch.setitem(FILES, NAME, replace(entry, url=None))
    with pytest.raises(CheckpointError, match=r"no address leads to the file itself: download"):
        fetch(NAME, tmp_path / "model")
    assert fetch(NAME, tmp_path / "model", file=file).pipeline == "detr"
    with pytest.raises(CheckpointError, match=r"there is no such file"):
        fetch(NAME, tmp_path / "other", file=tmp_path / "nothing.pth")


def test_the_command_still_lists_by_itself():
    assert (parse(["zoo"]).action, parse(["zoo", "--json"]).json) == ("list", True)
    with pytest.raises(ConfigError, match="needs the name of a model"):
        parse(["zoo", "fetch"]).run([])


def test_a_name_without_a_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no file of detr_r5 is published\. Did you mean"):
        fetch("detr_r5", tmp_path)


def test_the_table_names_models_of_the_zoo_with_their_facts():
    models = {model.job.name: model for model in zoo.models()}
    for name, entry in FILES.items():
        model = models[name]
        backbone = model.job.detector.backbone
        assert entry.dc5 == getattr(backbone, "dilate_c5", False)
        assert abs(entry.ap - model.published.ap) < 1, "the released weights are of the same model"
        assert entry.licence in ("Apache-2.0", "MIT")
        assert entry.page.startswith("https://github.com/")
        if entry.url is not None and entry.sha256 is not None:
            assert entry.sha256 in entry.url
    urls = [entry.url for entry in FILES.values() if entry.url is not None]
    assert len(set(urls)) == len(urls) > 20
    assert published.TOLERANCE == 0.05


@pytest.mark.parametrize(
    ("found", "images", "equal"),
    [
        (0.4370, 5000, True),
        (0.4375, 5000, True),
        (0.43649, 5000, False),
        (0.4376, 5000, False),
        (0.437, 128, None),
    ],
)
def test_ap_is_compared_within_the_tolerance_and_on_all_images_alone(found, images, equal):
    one = published_ap({"published.ap": 43.7, "published.name": NAME}, found, images)
    assert one.equal is equal
    assert {True: ": equal within", False: "not equal within", None: "not of these 128"}[equal] in str(one)
    assert published_ap({}, found, images) is None
    assert isinstance(one, PublishedAP)


@pytest.fixture(scope="session")
def four_images(coco_root, tmp_path_factory):
    """Shards of four real images."""
    root = tmp_path_factory.mktemp("four")
    content = json.loads((coco_root / "annotations" / "instances_val2017.json").read_text())
    content["images"] = content["images"][:4]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (root / "val2017").symlink_to(coco_root / "val2017")
    conversion = Conversion(coco=root, split="val2017", out=root / "shards", processes=1)
    convert(conversion, console=Console(quiet=True))
    return root / "shards"


def test_one_command_checks_all_files_and_resumes(served, four_images, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(FILES, "dab_detr_r50", replace(FILES["dab_detr_r50"], url=None))
    check = check_all.Check(
        data=four_images, out=tmp_path / "out", names=(NAME, "dab_detr_r50"), device="cpu"
    )
    first, second = check_all.run(check)
    assert (first["AP"], first["equal"], first["images"]) == (43.7, None, 4)
    assert 0 <= first["found"] <= 100
    assert "by hand" in second["error"]
    assert not check_all.succeeded([first, second])
    assert check_all.succeeded([first | {"equal": True}])
    said = capsys.readouterr().out
    assert f"{NAME}: " in said
    assert "of other images" in said
    kept = json.loads((tmp_path / "out" / check_all.RESULTS).read_text())
    assert kept == {NAME: first, "dab_detr_r50": second}
    monkeypatch.setattr(check_all, "evaluate", None)  # what has a result is not evaluated again
    assert check_all.run(check)[0] == first


@pytest.mark.slow
def test_evaluate_prints_the_published_ap(served, four_images, tmp_path, capsys):
    fetch(NAME, tmp_path / "model")
    main(["evaluate", str(tmp_path / "model"), "--data", str(four_images), "--device", "cpu"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{NAME}: AP " in text
    assert "43.7 by its authors" in text
