"""A real training accounts for its images, epoch by epoch, on two ranks and when one rank resumes alone."""

import shutil

import pytest

from qdet.config import override
from tests.support.ranks import tiny_job, train_all


@pytest.mark.slow
def test_epochs_are_accounted_for_after_a_change_of_ranks(demo_shards, tmp_path, capfd):
    # 48 images: 4 steps that leave 8 of them out, or 5 steps that take 2 of them twice.
    job = tiny_job(demo_shards, **{"train.batch_size": 10, "train.workers": 2, "train.steps": 6})
    two = train_all(2, {"drop": override(job, {"train.checkpoint_every": 5})}, tmp_path)
    assert counts(two["drop"]) == {4: (0, 0, 8, 0, 0), 6: (0, 0, 0, 0, 0)}
    assert received(two["drop"]) == {4: 40, 6: 20}
    shutil.rmtree(tmp_path / "drop" / "step_000006")
    alone = override(job, {"train.workers": 1, "train.steps": 8})
    wrapping = override(alone, {"train.steps": 5, "data.tail": "wrap"})
    one = train_all(1, {"drop": alone, "wrap": wrapping}, tmp_path)
    assert counts(one["drop"]) == {8: (0, 0, 8, 0, 0)}
    assert counts(one["wrap"]) == {5: (0, 0, 0, 2, 0)}
    assert received(one["drop"]) == {8: 40}  # the first of them by two ranks, before the checkpoint
    assert received(one["wrap"]) == {5: 50}
    assert "images of epoch" not in capfd.readouterr().out  # all of it was planned


def counts(points):
    names = ("lost", "duplicated", "dropped", "wrapped", "substituted")
    return {
        step: tuple(int(values.get(f"data/{name}", 0)) for name in names)
        for step, values in points.items()
        if any(key.startswith("data/") for key in values)
    }


def received(points):
    return {step: values["data/received"] for step, values in points.items() if "data/received" in values}
