"""Commands of README and docs run: quick ones here, the others as slow tests; the rest say why they cannot.

They run in a project of their own, with a folder for each name that the pages use. What a reader replaces by
something of his own is replaced by `STANDS_FOR`.
"""

import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qdet import __main__ as commands
from tests.support.dataset_folder import write_voc
from tests.support.page_commands import LINES
from tests.support.page_tables import ELSEWHERE, ON_RAY, QUICK, SENT, SERVERS, SLOW, STANDS_FOR
from tests.support.recipes import REPO
from tests.support.small_models import write_checkpoint

WRITTEN = ("drawn", "found", "looks", "data/photos", "results.json", "report.html", "model.safetensors")


def lines(block: str) -> list[str]:
    return block.replace("\\\n", "").strip().splitlines()


def stand_in(line: str) -> str:
    """Return a command as it is run here."""
    for placeholder, ours in STANDS_FOR.items():
        line = re.sub(placeholder, ours, line)
    return line


def test_every_command_is_run_or_says_why_not():
    listed = [*lines(QUICK), *lines(SLOW), *lines(ON_RAY), *SERVERS, *lines(SENT), *ELSEWHERE]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(LINES)


def make_project(root: Path, shards: Path) -> Path:
    """Write what the pages speak of into a folder."""
    (root / "coco").mkdir(parents=True)
    (root / "jobs").symlink_to(REPO / "jobs")
    shutil.copytree(REPO / "cluster", root / "cluster")
    rendered = shards / "coco"
    for split in ("train", "val"):
        (root / "coco" / f"{split}2017").symlink_to(rendered / split)
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        given = rendered / "annotations" / f"instances_{split}.json"
        (root / "coco" / "annotations" / f"instances_{split}2017.json").symlink_to(given)
        for place in ("data/demo/shards", "data/coco"):
            (root / place).mkdir(parents=True, exist_ok=True)
            (root / place / split).symlink_to(shards / split)
    (root / "data" / "demo" / "coco").symlink_to(rendered)
    for name in ("cells", "photos", "more_photos"):
        write_voc(root / name, images=24)
    splits = root / "cells" / "ImageSets" / "Main"
    splits.mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{i:04d}\n" for i in range(24) if i % 3 == number]
        (splits / f"{split}.txt").write_text("".join(names))
    write_pictures(root)
    for run in ("tiny", "tiny-otter"):
        write_checkpoint(root / "outputs" / run, step=2, metrics={"val/AP": 0.5})
    return root


def write_pictures(root: Path) -> None:
    from qdet.inference.video import VideoWriter

    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    for name in ("street.jpg", "photo.jpg", "photo.png", "one.jpg", "two.png", "photos/a/1.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / name)
    with VideoWriter(root / "clip.mp4", Fraction(5)) as video:
        for _ in range(3):
            video.write(pixels)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, demo_shards: Path) -> Path:
    return make_project(tmp_path_factory.mktemp("reader"), demo_shards)


@pytest.fixture
def reader(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder and environment of who types the commands."""
    for name in [*os.environ]:
        if name.startswith(("RAY_", "QDET_", "MLFLOW_")) and name != "QDET_TEST_HOLDS_RAY_LOCK":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.chdir(project)
    for made in WRITTEN:
        shutil.rmtree(made, ignore_errors=True)
        Path(made).unlink(missing_ok=True)
    return project


ORDER = sorted(lines(QUICK), key=lambda line: not re.search("prepare|coco_to_shards", line))
"""What makes shards comes before what reads them."""


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("line", ORDER)
def test_a_quick_command_runs(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    if "data/cells/" in line and not Path("data/cells/train").is_dir():
        run_here("qdet prepare cells --out data/cells", monkeypatch)
    if re.search(r"data/coco\b.*2017", line) and not line.startswith("python -m data_prep.coco"):
        for split in ("train2017", "val2017"):
            name = f"python -m data_prep.coco_to_shards --coco coco --split {split} --out data/coco/{split}"
            run_here(name, monkeypatch)
    run_here(stand_in(line), monkeypatch)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


def run_here(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process; it must end with exit code 0."""
    words = shlex.split(line)
    try:
        if words[0] == "qdet":
            commands.main(words[1:])
        elif words[1] == "-m":
            monkeypatch.setattr(sys, "argv", [words[2], *words[3:]])
            runpy.run_module(words[2], run_name="__main__")
        else:
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as left:
        if left.code:
            pytest.fail(f"{line} ends with exit code {left.code}")


def run_in_bash(script: str, *, timeout: float) -> str:
    """Run a script; return its output. It must end with exit code 0."""
    done = subprocess.run(
        ["bash", "-euc", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    print(done.stdout)
    assert done.returncode == 0
    assert "Traceback" not in done.stdout
    return done.stdout


def unquoted(line: str) -> str:
    """Return a line as the page has it: the words of an `eval` are in double quotes there."""
    return re.sub(r"^eval '(.*)'$", r'eval "\1"', line)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("line", lines(SLOW))
def test_a_slow_command_runs(line: str):
    run_in_bash(unquoted(stand_in(line)), timeout=800)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("reader")
def test_the_commands_of_a_cluster_run():
    script = [unquoted(stand_in(line)) for line in lines(ON_RAY)]
    try:
        run_in_bash("\n".join(script), timeout=2300)
    finally:
        subprocess.run(["cluster/local.sh", "down"], check=False)


@pytest.fixture
def served(reader: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Start a server and yield the address that it prints."""
    with Path("server.log").open("w+") as log:
        command = shlex.split(stand_in(request.param))
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield wait_for_address(process, Path("server.log"))
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def wait_for_address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        found = re.findall(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found and answers(found[-1]):
            return found[-1]
        time.sleep(0.25)
    raise AssertionError(log.read_text())


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("served", ["qdet ui"], indirect=True)
def test_the_page_of_the_runs_opens(served: str):
    assert urllib.request.urlopen(served, timeout=60).status == 200


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("served", ["qdet serve outputs/RUN"], indirect=True)
def test_a_model_is_served(served: str):
    for line in lines(SENT):
        said = run_in_bash(
            line.replace("http://127.0.0.1:8000", served).replace("curl", "curl -sf"), timeout=120
        )
        assert said.lstrip().startswith(("{", "["))
