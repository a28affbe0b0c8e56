"""What a training takes on some machines, against a ring walked step by step."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.config import override
from qdet.errors import ConfigError
from qdet.job import Job
from qdet.launching import cli
from qdet.launching.preflight.plan import Machines, plan

JOB = Job(name="a")


def walk_ring(workers: int, size: float) -> float:
    """Add up what one worker sends while a ring leaves every worker with every worker's part."""
    return sum(size / workers for _ in range(workers - 1))


@given(nodes=st.integers(1, 4), each=st.integers(1, 4), zero=st.integers(0, 3), trained=st.integers(1, 10**6))
def test_what_a_step_sends_is_what_a_ring_sends(nodes, each, zero, trained):
    job = override(JOB, {"train.batch_size": 48, "train.workers": 1, "train.zero": zero})
    machines = Machines(nodes=nodes, gpus_per_node=each)
    if 48 % (nodes * each):
        with pytest.raises(ConfigError, match=f"--nodes --gpus-per-node are {nodes * each} workers"):
            machines.apply_to(job)
        return
    found = plan(machines.apply_to(job), machines, parameters=trained + 7, trained=trained, steps=None)
    passes = [trained, trained + 7, trained + 7] if zero == 3 else [trained, trained]
    assert found.sent_per_worker == pytest.approx(sum(walk_ring(nodes * each, 4 * n) for n in passes))
    assert found.sent_per_node == (found.sent_per_worker if nodes > 1 else 0)
    assert (found.hours, found.cost) == (None, None)


def test_hours_and_cost_follow_from_images_and_speed():
    job = override(JOB, {"train.batch_size": 16, "train.workers": 1})
    machines = Machines(nodes=2, gpus_per_node=4, images_per_s=10.0, price=2.5)
    found = plan(machines.apply_to(job), machines, parameters=10, trained=10, steps=9000)
    # 144,000 images at 80 a second are 1,800 s, for 8 GPUs
    assert (found.hours, found.cost) == (0.5, 10.0)
    assert found.rows()["machines"] == "2 nodes of 4 workers"


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"nodes": 0}, "--nodes 0: must be a number above 0"),
        ({"images_per_s": -1.0}, "--images-per-s -1.0"),
        ({"images_per_s": float("nan")}, "--images-per-s nan"),
        ({"price": 2.0}, "--price: the cost follows from the hours"),
    ],
)
def test_numbers_that_count_nothing_are_refused(given_, said):
    with pytest.raises(ConfigError, match=said):
        Machines(**given_)


def test_machines_are_for_dry_runs(capsys):
    with pytest.raises(SystemExit):
        cli.launch(JOB, args=["--nodes", "2"])
    assert "--nodes goes with --dry-run" in capsys.readouterr().err


def test_a_dry_run_begins_with_what_was_changed(demo_shards, capsys):
    where = ["--data.train", str(demo_shards / "train"), "--data.val", str(demo_shards / "val")]
    args = [
        "--demo",
        "--dry-run",
        "--json",
        "--optim.lr",
        "0.5",
        "--nodes",
        "2",
        "--images-per-s",
        "4",
        *where,
    ]
    cli.launch(JOB, args=args)
    said = capsys.readouterr()
    first = [line.split()[0] for line in said.err.split("\n\n", 1)[0].splitlines()]
    assert "--optim.lr" in first
    assert "--train.epochs" not in first
    found = json.loads(said.out)
    images = found["steps"] * found["settings"]["train.batch_size"]
    assert found["plan"]["hours"] == pytest.approx(images / 8 / 3600)
    assert found["activations"] > 0
