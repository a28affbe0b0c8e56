"""The commands that convert a dataset: what they write, print and refuse, and that they resume."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from data_prep.datasets import open_dataset, pack_split
from data_prep.packing import dataset as packing_dataset
from data_prep.packing import pack as packing
from data_prep.packing.settings import Packing
from data_prep.to_shards import ToShards, convert, join_output, main
from qdet.__main__ import main as qdet_main
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import DataError
from tests.support.dataset_writers import Picture, put_image, write_voc, write_yolo

BOX = (("a", (1.0, 1.0, 9.0, 9.0)), ("b", (0.0, 0.0, 5.0, 5.0)))


def pictures(prefix: str, count: int) -> list[Picture]:
    return [Picture(f"{prefix}{k}", (60, 40), BOX, "jpg") for k in range(count)]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "in"
    write_voc(folder, {"train": pictures("x", 12), "val": pictures("v", 3), "test": pictures("t", 2)}, [])
    return folder


def digests(folder: Path) -> dict:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_every_split_becomes_a_folder_of_shards(root, tmp_path, capsys):
    main([str(root), "--out", str(tmp_path / "out"), "--processes", "1"])
    said = capsys.readouterr().out
    assert said.startswith(f"{root}: voc, 2 classes (a, b); train 12 images, val 3 images, test 2 images\n")
    assert "there is no val split" not in said
    for split, count in (("train", 12), ("val", 3), ("test", 2)):
        shards = ShardSet.open(tmp_path / "out" / split)
        assert len(shards) == count
        assert shards.manifest["name"] == split
        assert shards.manifest["report"] == {}


def test_qdet_prepare_is_the_same(root, tmp_path, capsys):
    main([str(root), "--out", str(tmp_path / "out"), "--processes", "1"])
    qdet_main(["prepare", str(root), "--out", str(tmp_path / "again"), "--processes", "1"])
    assert digests(tmp_path / "out") == digests(tmp_path / "again")
    with pytest.raises(SystemExit) as stopped:
        qdet_main(["prepare", str(tmp_path / "out"), "--out", str(tmp_path / "again")])
    assert stopped.value.code == 1
    assert "is in no known format" in capsys.readouterr().err


def test_one_split_may_be_asked_for(root, tmp_path):
    convert(ToShards(folder=root, out=tmp_path / "out", split="val", processes=1))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["val"]


def test_a_split_that_is_not_there_is_refused_and_the_way_to_one_said(tmp_path, capsys):
    write_yolo(tmp_path / "in", {"train": pictures("x", 9)}, ["a", "b"])
    words = [str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--processes", "1"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--split", "val"])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err.replace("\n", "") == f"ConfigError: --split val: {tmp_path / 'in'} has train"
    )
    main(words)
    assert "there is no val split; --val-share 0.1 holds" in capsys.readouterr().out
    main([*words[:2], str(tmp_path / "both"), *words[3:], "--val-share", "0.4"])
    counts = [len(ShardSet.open(tmp_path / "both" / split)) for split in ("train", "val")]
    assert sum(counts) == 9
    assert min(counts) > 0


def test_packing_again_does_nothing_until_something_changes(root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    pack_split(open_dataset(root).splits["train"], out, Packing(processes=1))
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    monkeypatch.setattr(packing_dataset, "pack", lambda *_: pytest.fail("packed again"))
    console = Console(file=io.StringIO(), width=500)
    assert pack_split(open_dataset(root).splits["train"], out, Packing(processes=2), console=console) == out
    assert "already converted: nothing to do" in console.file.getvalue()
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before
    (root / "Annotations" / "x3.xml").unlink()
    with pytest.raises(DataError, match="holds shards of another dataset or of other settings"):
        pack_split(open_dataset(root).splits["train"], out, Packing(processes=1))


def test_an_interrupted_conversion_resumes_to_the_same_bytes(root, tmp_path, monkeypatch):
    pack, packed = packing.pack, []

    def interrupted(task):
        if len(packed) == 3:
            raise KeyboardInterrupt
        packed.append(task.name)
        return pack(task)

    settings = {"folder": root, "shard_megabytes": 0.003, "processes": 1}
    convert(ToShards(out=tmp_path / "whole", **settings))
    monkeypatch.setattr(packing_dataset, "pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(ToShards(out=tmp_path / "out", **settings))
    first = list(packed)
    monkeypatch.setattr(packing_dataset, "pack", lambda task: (packed.append(task.name), pack(task))[1])
    convert(ToShards(out=tmp_path / "out", **settings))
    assert len(packed) == len(set(packed)) > len(first)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_notes_are_printed(root, tmp_path, capsys):
    put_image(root / "JPEGImages", Picture("bare", (9, 9)))
    (root / "ImageSets" / "Main" / "test.txt").write_text("t0\nbare\n")
    main([str(root), "--out", str(tmp_path / "out"), "--processes", "1"])
    assert "  images without an XML file, taken as images without objects: 1\n" in capsys.readouterr().out


def test_outputs_may_be_behind_urls(root, bucket):
    convert(ToShards(folder=root, out=f"{bucket}/mine/", split="test", processes=1))
    assert len(ShardSet.open(f"{bucket}/mine/test")) == 2
    assert join_output("s3://b/x/", "val") == "s3://b/x/val"


def test_help_and_conversion_import_no_torch():
    for code in (
        "import data_prep.to_shards, data_prep.datasets.dataset, data_prep.datasets.pack, data_prep.doctor",
        "import qdet.__main__",
    ):
        code = f"import sys; {code}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_naming_the_command_imports_no_reader():
    code = "import sys, data_prep.to_shards; sys.exit(any(n in sys.modules for n in ('numpy', 'cv2', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
