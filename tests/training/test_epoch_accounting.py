"""A real training accounts for its images, epoch by epoch, on two ranks and when one rank resumes alone."""

import shutil

from qdet.config import override
from tests.support.ranks import tiny_job, train_all


def test_epochs_are_accounted_for_after_a_change_of_ranks(demo_shards, tmp_path, capfd):
    # 48 images: 4 steps that leave 8 of them out, or 5 steps that take 2 of them twice.
    job = tiny_job(demo_shards, **{"train.batch_size": 10, "train.workers": 2, "train.steps": 6})
    two = train_all(2, {"drop": override(job, {"train.checkpoint_every": 5})}, tmp_path)
    assert counts(two["drop"]) == {4: (0, 0, 8, 0, 0)}  # nothing happened in the second
    shutil.rmtree(tmp_path / "drop" / "step_000006")
    alone = override(job, {"train.workers": 1, "train.steps": 8})
    wrapping = override(alone, {"train.steps": 5, "data.tail": "wrap"})
    one = train_all(1, {"drop": alone, "wrap": wrapping}, tmp_path)
    assert counts(one["drop"]) == {8: (0, 0, 8, 0, 0)}
    assert counts(one["wrap"]) == {5: (0, 0, 0, 2, 0)}
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("images of epoch")]
    assert [line.split(":")[0].removeprefix("images of ") for line in said] == [
        "epoch 0, steps 0 to 3",  # the rest of epoch 1, of which nothing is dropped, is not worth a line
        "epoch 1, steps 0 to 3",  # the first of them were counted by two ranks, before the checkpoint
        "epoch 0, steps 0 to 4",
    ]
    assert all("lost=0 duplicated=0" in line for line in said)


def counts(points):
    names = ("lost", "duplicated", "dropped", "wrapped", "substituted")
    return {
        step: tuple(int(values.get(f"data/{name}", 0)) for name in names)
        for step, values in points.items()
        if any(key.startswith("data/") for key in values)
    }
