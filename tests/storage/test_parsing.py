"""JSON from anybody, and links that lead nowhere: an error of ours, whatever it holds."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.annotations.coco_file import read_coco_file
from qdet.backbones.hugging_face import HuggingFaceConfig
from qdet.checkpoint import RunFolder, open_folder, verify
from qdet.checkpoint.manifest import MANIFEST
from qdet.checkpoint.reading import parse_object, parse_state
from qdet.convert.files import _json
from qdet.data.shards.annotations import read_annotations
from qdet.data.shards.forms import read_columns
from qdet.data.shards.locate import Access, locate
from qdet.data.shards.manifest import SCHEMA, digest_of, parse_manifest
from qdet.errors import QdetError
from qdet.inference.description import Description
from qdet.launching import paths
from qdet.launching.ray_backend import head
from qdet.launching.runs.record import RECORD
from qdet.launching.runs.record import read as read_record
from qdet.storage import Folder
from qdet.storage.parsing import DEEPEST, parse_json, parse_json_object
from tests.support.small_checkpoints import state

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=20,
)


def depth(value):
    """Levels of lists and objects, literally."""
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


@given(JSON, st.integers(0, 80), st.booleans())
def test_what_is_nested_no_deeper_than_allowed_is_read(value, levels, named):
    for _ in range(levels):
        value = {"x": value} if named else [value]
    text = json.dumps(value)
    if depth(value) > DEEPEST:
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
    else:
        assert repr(parse_json(text)) == repr(json.loads(text)) == repr(parse_json(text.encode()))


def test_brackets_in_text_are_not_levels():
    assert parse_json(json.dumps(["[" * 500])) == ["[" * 500]


@given(JSON.filter(lambda value: not isinstance(value, dict)))
def test_only_an_object_has_values_by_name(value):
    with pytest.raises(ValueError, match="no values by name"):
        parse_json_object(json.dumps(value))


def write(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def read_head(content: bytes, folder: Path) -> None:
    write(paths.state_folder(), "head.json", content)
    head.running()


READERS = {
    "checkpoint's manifest": lambda data, at: verify(open_folder(write(at, MANIFEST, data).parent)),
    "checkpoint's state": lambda data, at: parse_state(data, open_folder(at), step=300),
    "checkpoint's job": lambda data, at: parse_object(data, open_folder(at), "job"),
    "model's description": lambda data, at: Description.from_json(data, source="model"),
    "dataset's manifest": lambda data, at: parse_manifest(data, where="there"),
    "dataset": lambda data, at: locate(str(write(at, "manifest.json", data).parent), Access()),
    "sample": lambda data, at: read_annotations(data, name="sample 1", size_hw=(8, 8)),
    "own sample": lambda data, at: read_columns(data, name="sample 1"),
    "COCO file": lambda data, at: read_coco_file(write(at, "coco.json", data)),
    "published settings": lambda data, at: _json(write(at, "config.json", data)),
    "run's record": lambda data, at: read_record(str(at), write(at / "run", RECORD, data).parent.name),
    "head's record": read_head,
    "flag": lambda data, at: HuggingFaceConfig(model="convnext", settings=data.decode()),
}
WRONG = {
    "nested lists": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested a little": b"[" * 900 + b"]" * 900,
    "list": b"[]",
    "number": b"1e999",
    "text": b'"x"',
    "nothing": b"null",
    "long number": b"1" * 5000,
    "no JSON": b"\x00\xff",
    "unknown": b'{"format": 2, "schema": 1, "born": {}, "files": [], "unknown": null}',
}


VALID = {
    ("sample", "list"),
    ("flag", "unknown"),
    ("checkpoint's job", "unknown"),
    ("published settings", "unknown"),
    ("flag", "no JSON"),  # no flag holds such bytes
}
"""Readers for which such content is not wrong."""


@pytest.mark.parametrize(
    ("reader", "wrong"),
    [(reader, wrong) for reader in READERS for wrong in WRONG if (reader, wrong) not in VALID],
)
def test_no_file_makes_a_traceback(reader, wrong, tmp_path, monkeypatch):
    monkeypatch.setenv("QDET_ROOT", str(tmp_path))
    with pytest.raises(QdetError):
        READERS[reader](WRONG[wrong], tmp_path / "here")


def test_unknown_fields_are_named():
    content = asdict(state()) | {"of_the_future": 1}
    with pytest.raises(QdetError, match=r"of_the_future.*which this one does not know"):
        parse_state(json.dumps(content).encode(), open_folder("x"), step=300)


@given(entry=JSON | st.fixed_dictionaries({"url": JSON, "nsamples": JSON, "filesize": JSON, "sha256": JSON}))
def test_no_listing_of_shards_with_a_right_digest_makes_a_traceback(entry, tmp_path_factory):
    categories = [{"id": 1, "name": "a"}]
    try:
        digest = digest_of(categories, [entry])
    except (ValueError, TypeError):
        return
    content = {
        "schema": SCHEMA, "shardlist": [entry], "categories": categories, "digest": digest,
        "index_sha256": "",
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("shards")
    write(folder, "manifest.json", json.dumps(content).encode())
    try:
        found = locate(str(folder), Access())
    except QdetError:
        return
    assert isinstance(entry["url"], str)
    assert entry["filesize"] >= 0
    assert len(found.shards) == 1


LOOPS = {
    "names": lambda loop: Folder.open(loop).names(),
    "reading": lambda loop: Folder.open(loop).read("x"),
    "a run": lambda loop: RunFolder(open_folder(loop)).newest_good(print),
    "a checkpoint": lambda loop: verify(open_folder(loop)),
    "a dataset": lambda loop: locate(str(loop), Access()),
    "a record": lambda loop: read_record(str(loop), "run"),
}


@pytest.mark.parametrize("what", LOOPS)
def test_a_link_to_itself_is_an_error_of_ours_or_nothing(what, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    said = []
    try:
        found = LOOPS[what](loop)
    except (QdetError, OSError) as error:  # never a RuntimeError
        found, said = None, [str(error)]
    assert not found
    assert all("loop" in one for one in said)
