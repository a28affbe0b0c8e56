"""`qdet order` prints what training reads, for any number of ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qdet.__main__ import main
from qdet.data.augment import AugmentConfig
from qdet.data.config import DataConfig
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.errors import ConfigError
from qdet.launching.commands import epoch_order as order

REPO = Path(__file__).resolve().parents[2]
JOB = """
from qdet.data.augment import AugmentConfig
from qdet.job import DataConfig, Job

job = Job(name="small", data=DataConfig(augment=AugmentConfig(sizes=(64, 96)), tail="wrap", by_size=False))
"""


@pytest.fixture
def printed(capsys):
    """Return a function that runs the command and returns its parsed lines."""

    def run(*args) -> list[dict]:
        main(["order", *map(str, args)])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture
def refused(capsys):
    """Return a function that runs the command and returns its error message."""

    def run(*args) -> str:
        with pytest.raises(SystemExit) as left:
            main(["order", *map(str, args)])
        assert left.value.code in (1, 2)
        return capsys.readouterr().err

    return run


def read(
    folder: Path, augment: AugmentConfig, first: int, last: int, *, world: int, by_size: bool = True, **how
) -> list[list]:
    """Return the image ids of every rank at steps `first` to `last - 1`, from training's batches."""
    shards = ShardSet.open(folder)
    steps = [[] for _ in range(first, last)]
    for rank in range(world):
        stream = TrainStream(
            shards, augment, StreamConfig(rank=rank, world_size=world, **how), by_size=by_size
        )
        for step, batches in zip(steps, stream.steps(first, last), strict=True):
            step.append([i for batch in batches for i in batch.image_ids.tolist()])
    return steps


@pytest.mark.parametrize("world", [1, 2, 3, 4, 12])
def test_the_printed_order_is_what_training_reads_from_any_step(demo_shards, printed, world):
    args = ["--data", demo_shards, "--split", "train", "--seed", 5, "--global-batch", 12, "--world", world]
    found = printed(*args, "--epoch", 2, "--start", 1)
    assert [line["step"] for line in found] == [1, 2, 3]  # 48 images, 4 steps
    expected = read(demo_shards / "train", AugmentConfig(), 9, 12, world=world, batch_size=12, seed=5)
    assert [line["ranks"] for line in found] == expected
    assert printed(*args, "--epoch", 2, "--start", 2, "--steps", 1) == found[1:2]


def test_the_folder_of_a_split_is_accepted_too(demo_shards, printed):
    inside = printed("--data", demo_shards, "--split", "val", "--global-batch", 4)
    assert len(inside) == 4
    assert printed("--data", demo_shards / "val", "--split", "val", "--global-batch", 4) == inside
    assert printed("--data", f"{demo_shards}/val/", "--split", "va", "--global-batch", 4) == inside


def test_a_job_and_flags_of_a_job_decide_as_they_do_in_training(demo_shards, tmp_path, printed):
    (tmp_path / "small.py").write_text(JOB)
    args = ["--data", demo_shards, "--global-batch", 14, "--world", 2, "--job", tmp_path / "small.py"]
    how = {"world": 2, "batch_size": 14, "seed": 0}
    small = AugmentConfig(sizes=(64, 96))
    found = [line["ranks"] for line in printed(*args)]
    assert len(found) == 4  # 48 images, and 8 repeated to fill the last batch
    wrapped = read(demo_shards / "train", small, 0, 4, tail="wrap", by_size=False, **how)
    assert found == wrapped
    flags = ["--", "--data.tail", "drop", "--data.augment.flip", "0"]
    dropped = read(demo_shards / "train", small, 0, 3, by_size=False, **how)
    assert [line["ranks"] for line in printed(*args, *flags)] == dropped
    flags = ["--", "--data.augment.sizes", "32", "64", "--data.augment.crop"]
    other = read(demo_shards / "train", AugmentConfig(sizes=(32, 64), crop=True), 0, 3, **how)
    assert [line["ranks"] for line in printed(*args[:6], *flags)] == other


def test_impossible_orders_are_refused_by_their_flag(demo_shards, tmp_path, refused):
    data = ["--data", demo_shards]
    (tmp_path / "empty.py").write_text("jobs = []\n")
    for args, said in (
        (["--world", 17], "--global-batch 16 has no image for some of --world 17"),
        (["--global-batch", 0], "--global-batch 0 has no image"),
        (["--world", 0], "--world must be at least 1, got 0"),
        (["--epoch", -1], "--epoch must be at least 0, got -1"),
        (["--start", 3], "--start 3 is behind the epoch's last step, 2"),
        (["--global-batch", 49], "more than the 48 images"),
        (["--split", "test"], "holds the shards of train and val: give"),
        (["--job", tmp_path / "none.py"], "none.py: there is no such file"),
        (["--job", tmp_path / "empty.py"], "empty.py: the file defines no `job`"),
    ):
        assert said in refused(*data, *args)
    assert "holds the split train, not --split val" in refused(
        "--data", demo_shards / "train", "--split", "val"
    )


def test_a_closed_pipe_ends_the_command_quietly(demo_shards):
    command = [sys.executable, "-m", "qdet", "order", "--data", demo_shards, "--global-batch", "1"]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_sequential_reading_has_no_order_to_print(demo_shards):
    settings = DataConfig(reading="sequential")
    shards = ShardSet.open(demo_shards / "train")
    with pytest.raises(ConfigError, match="no order to show"):
        next(order.lines(shards, settings, order.Stretch(), seed=0, global_batch=8))
