"""Names and ids in shards of others: cleaned or refused by the scan, and patterns of folders."""

import io
import json
import tarfile

import numpy as np
import pytest
import simplejpeg

from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError

PIXELS = simplejpeg.encode_jpeg(np.zeros((8, 12, 3), np.uint8))


def write(folder, *samples, name="s-000000.tar"):
    """A shard with a sample for each JSON; a member's name has no dot in its key."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, "w") as tar:
        for key, said in enumerate(samples):
            for kind, data in (("jpg", PIXELS), ("json", json.dumps(said).encode())):
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def sample(kind, image_id=1, **more):
    return {"id": image_id, "annotations": [{"bbox": [0, 0, 4, 4], "category_name": kind}]} | more


@pytest.mark.parametrize(
    ("given", "clean"), [("a\nb", "a b"), (" c\t", "c"), ("\x1b\ud800", "\\x1b\\ud800"), ("[/red]", "[/red]")]
)
def test_names_of_classes_are_cleaned(tmp_path, given, clean):
    shards = ShardSet.open(write(tmp_path / "s", sample(given), sample(clean, 2)))
    assert shards.categories.names == (clean,)
    assert [a["category_id"] for a in shards.ground_truth()["annotations"]] == [1, 1]


@pytest.mark.parametrize(
    "said",
    [
        sample("\n"),
        sample("a", image_id=2**63),
        {"id": 1, "annotations": [{"bbox": [0, 0, 4, 4], "category_id": 2**70}]},
        sample("a", categories=[{"id": 1, "name": ""}]),
    ],
)
def test_what_cannot_be_kept_is_named_with_its_sample(tmp_path, said):
    with pytest.raises(DataError, match=r"s-000000.tar, sample 0") as raised:
        ShardSet.open(write(tmp_path / "s", said))
    str(raised.value).encode()


@pytest.mark.parametrize("name", ["a\x00.jpg", "\udcff", 7, None, ["x"]])
def test_a_name_that_no_file_can_have_gives_way_to_the_key(tmp_path, name):
    shards = ShardSet.open(write(tmp_path / "s", sample("a", file_name=name)))
    assert shards.read_annotation(0)["file_name"] == "0"
    json.dumps(shards.ground_truth()).encode()


@pytest.mark.parametrize("pattern", ["{a}::{b}", "{{{a},{b}}}", "{a}::{b}/s-000000.tar"])
def test_a_pattern_of_folders_says_that_it_names_tars(tmp_path, pattern):
    a, b = (str(write(tmp_path / name, sample("x", k))) for k, name in enumerate("ab", start=1))
    with pytest.raises(DataError, match="is a folder, and a pattern names tars") as raised:
        ShardSet.open(pattern.format(a=a, b=b))
    assert "\n" not in str(raised.value)


def test_the_tars_of_two_folders_are_joined_as_the_message_says(tmp_path):
    a, b = (str(write(tmp_path / name, sample("x", k))) for k, name in enumerate("ab", start=1))
    with pytest.raises(DataError, match="keys of samples must differ"):
        ShardSet.open(f"{a}/s-{{000000..000000}}.tar::{b}/s-{{000000..000000}}.tar")
