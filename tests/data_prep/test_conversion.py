"""Conversions are reproducible, resume after an interruption and leave nothing half-written."""

import dataclasses
import errno
import hashlib
import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from data_prep.coco_to_shards import Conversion, convert, main
from data_prep.packing import dataset as packing_dataset
from data_prep.packing import pack as packing
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError, DataError


@pytest.fixture
def conversion(make_coco, tmp_path):
    root, _ = make_coco(20)
    return Conversion(coco=root, split="train", out=tmp_path / "shards", shard_megabytes=0.01, processes=1)


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_the_same_input_gives_the_same_bytes(conversion, tmp_path):
    convert(conversion)
    other = dataclasses.replace(conversion, out=tmp_path / "again", processes=2)
    convert(other)
    assert digests(conversion.out) == digests(other.out)
    assert len(list(conversion.out.glob("*.tar"))) > 3
    kinds = {p.suffix for p in conversion.out.iterdir()}
    assert kinds == {".tar", ".idx", ".npz", ".json"}  # no markers, nothing temporary


def test_all_images_are_there_and_shuffled(conversion):
    convert(conversion)
    ids = ShardSet.open(conversion.out).index.image_id.tolist()
    assert sorted(ids) == list(range(10, 30))
    assert ids != sorted(ids)


def test_a_finished_conversion_does_nothing(conversion, monkeypatch):
    first = convert(conversion)
    monkeypatch.setattr(packing_dataset, "pack", lambda *_: pytest.fail("packed again"))
    console = Console(file=io.StringIO(), width=500)
    assert convert(conversion, console=console) == first
    assert "already converted: nothing to do" in console.file.getvalue()


def test_an_interrupted_conversion_resumes(conversion, monkeypatch, tmp_path):
    pack, packed = packing.pack, []

    def interrupted(task):
        if len(packed) == 2:
            raise KeyboardInterrupt
        packed.append(task.name)
        return pack(task)

    monkeypatch.setattr(packing_dataset, "pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(conversion)
    with pytest.raises(DataError, match="did not finish"):
        ShardSet.open(conversion.out)
    (conversion.out / ".train-000002.tar.tmp-0").write_text("left by a killed process")
    first = list(packed)
    packed.clear()
    monkeypatch.setattr(packing_dataset, "pack", lambda task: (packed.append(task.name), pack(task))[1])
    convert(conversion)
    assert packed
    assert not set(first) & set(packed)
    whole = dataclasses.replace(conversion, out=tmp_path / "whole")
    monkeypatch.undo()
    convert(whole)
    assert digests(conversion.out) == digests(whole.out)


def test_a_full_disk_is_named_and_leaves_nothing_half_written(conversion, monkeypatch):
    syncs = []
    fsync = os.fsync

    def full(descriptor):
        syncs.append(descriptor)
        if len(syncs) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        DataError, match=r"no space left for .*train-.*free some space and run the same command"
    ):
        convert(conversion)
    left = [p.name for p in conversion.out.rglob("*")]
    assert not [name for name in left if "tmp" in name]
    assert not (conversion.out / "manifest.json").exists()
    monkeypatch.undo()
    convert(conversion)
    assert len(ShardSet.open(conversion.out)) == 20


def test_another_dataset_in_the_folder_is_left_alone(conversion, make_coco):
    convert(conversion)
    before = digests(conversion.out)
    other, _ = make_coco(8, name="other")
    with pytest.raises(
        DataError, match="another dataset or of other settings; delete it, or write into another folder"
    ):
        convert(dataclasses.replace(conversion, coco=other))
    assert digests(conversion.out) == before
    (conversion.out / "manifest.json").unlink()
    with pytest.raises(DataError, match="another dataset"):
        convert(conversion)


def test_an_unwritable_folder_is_named(conversion, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/shards cannot be written"):
        convert(dataclasses.replace(conversion, out=tmp_path / "file" / "shards"))


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"coco": None}, "--coco"),
        ({"split": "a.b"}, "--split"),
        ({"shard_megabytes": 0.0}, "--shard-megabytes"),
        ({"max_pixels": 0}, "--max-pixels"),
        ({"max_bad": -1}, "--max-bad"),
        ({"seed": -1}, "--seed"),
        ({"processes": -1}, "--processes"),
    ],
)
def test_invalid_settings_are_refused_by_flag(conversion, wrong, flag):
    with pytest.raises(ConfigError, match=flag):
        dataclasses.replace(conversion, **wrong)


def test_the_command_prints_a_summary_and_errors_in_one_line(conversion, tmp_path, capsys):
    flags = ["--coco", str(conversion.coco), "--split", "train", "--out", str(tmp_path / "by command")]
    main(flags)
    assert "20 images, 30 boxes of 2 categories, 1 shard," in capsys.readouterr().out.replace("\n", "")
    with pytest.raises(SystemExit) as stopped:
        main([*flags[:2], "--split", "nope", *flags[4:]])
    assert stopped.value.code == 1
    assert "instances_nope.json does not exist" in capsys.readouterr().err


def test_images_and_annotations_may_be_anywhere(conversion, tmp_path):
    root = conversion.coco
    convert(
        Conversion(
            images=root / "train",
            annotations=root / "annotations" / "instances_train.json",
            split="mine",
            out=tmp_path / "mine",
            processes=1,
        )
    )
    assert len(ShardSet.open(tmp_path / "mine")) == 20


def test_converting_imports_no_torch():
    code = "import sys, data_prep.coco_to_shards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
