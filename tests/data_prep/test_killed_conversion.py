"""A conversion killed at any moment leaves no half-written file and resumes to the same bytes.

Python raises an audit event for every file that it opens, renames or removes. A conversion in a process of
its own is killed at the first event, then at the second, and so on to the last.
"""

import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.coco_to_shards import Conversion, convert

REPO = Path(__file__).resolve().parents[2]
KILLED_AT_EVENT = """
import os, pathlib, signal, sys
from data_prep.coco_to_shards import Conversion, convert
import webdataset.writer
coco, folders, event = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), 0
ours = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
while True:
    event += 1
    out = folders / f"{event:04d}"
    child = os.fork()
    if child == 0:
        left = event
        def count(name, arguments):
            global left
            if name in ours and str(out) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        convert(Conversion(coco=coco, split="train", out=out, shard_megabytes=0.01, processes=1))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


@pytest.fixture
def whole(make_coco, tmp_path):
    """An uninterrupted conversion."""
    root, _ = make_coco(14)
    conversion = Conversion(
        coco=root, split="train", out=tmp_path / "whole", shard_megabytes=0.01, processes=1
    )
    convert(conversion)
    return conversion


def contents(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def check_half_done(folder, expected):
    """Check that files with a final name are complete; return the finished shards and their mtimes."""
    there = contents(folder) if folder.exists() else {}
    for name, digest in there.items():
        assert ".tmp-" in name or name.startswith(".parts/") or digest == expected[name], name
    done = [Path(name).stem for name in there if name.startswith(".parts/") and name.endswith(".json")]
    return {f"{stem}.tar": (folder / f"{stem}.tar").stat().st_mtime_ns for stem in done}


def test_a_conversion_killed_at_every_event_resumes_to_the_same_bytes(whole, tmp_path):
    folders = tmp_path / "killed"
    folders.mkdir()
    script = [sys.executable, "-c", KILLED_AT_EVENT, str(whole.coco), str(folders)]
    done = subprocess.run(script, capture_output=True, text=True, env=_environment(), check=False)
    assert done.returncode == 0, done.stderr
    expected = contents(whole.out)
    tries = sorted(folders.iterdir())
    assert len(tries) > 50
    seen = set()
    for folder in tries:
        finished = check_half_done(folder, expected)
        seen.add((len(finished), (folder / "manifest.json").exists()))
        convert(dataclasses.replace(whole, out=folder))
        assert contents(folder) == expected, folder
        for name, written in finished.items():
            assert (folder / name).stat().st_mtime_ns == written, f"{name} was written again"
    assert len(seen) > 3  # killed before, between and after shards, and after the manifest


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_command_killed_at_random_moments_resumes_to_the_same_bytes(make_coco, tmp_path, seed):
    root, _ = make_coco(60)
    conversion = Conversion(
        coco=root, split="train", out=tmp_path / "whole", shard_megabytes=0.01, processes=2
    )
    convert(conversion)
    expected, out = contents(conversion.out), tmp_path / "killed"
    command = [sys.executable, "-m", "data_prep.coco_to_shards", "--coco", str(root), "--split", "train"]
    command += ["--out", str(out), "--shard-megabytes", "0.01", "--processes", "2"]
    rng = random.Random(seed)
    for _ in range(2):
        process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, cwd=REPO)
        shards = rng.randint(1, 5)  # killed shortly after that many more appear
        before = len(list(out.glob("*.tar")))
        while process.poll() is None and len(list(out.glob("*.tar"))) < before + shards:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = check_half_done(out, expected)
        assert finished or (out / "manifest.json").exists()
    subprocess.run(command, check=True, env=_environment(), stdout=subprocess.DEVNULL, cwd=REPO)
    assert contents(out) == expected


def _environment():
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
