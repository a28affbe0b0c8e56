"""A real training on two ranks accounts for its images, epoch by epoch, also when it goes on."""

from ranks import train_all
from test_train import tiny_job

from qdet.config import override


def test_two_ranks_settle_every_epoch_and_what_is_left_at_the_end(demo_shards, tmp_path, capfd):
    job = tiny_job(demo_shards, **{"train.batch_size": 10, "train.workers": 2, "train.steps": 7})
    wrapping = override(job, {"data.tail": "wrap", "train.steps": 5})
    store = tmp_path / "store"
    points = train_all(2, {"drop": job, "wrap": wrapping}, store)
    # 48 images: 4 steps that drop 8 of them, or 5 steps that take 2 of them twice.
    assert counts(points["drop"]) == {4: (0, 0, 8, 0, 0), 7: (0, 0, 0, 0, 0)}
    assert counts(points["wrap"]) == {5: (0, 0, 0, 2, 0)}
    longer = train_all(2, {"drop": override(job, {"train.steps": 8})}, store)
    assert counts(longer["drop"]) == {8: (0, 0, 8, 0, 0)}
    said = capfd.readouterr().out
    for epoch, steps in ((0, "0 to 3"), (1, "0 to 2"), (1, "3 to 3"), (0, "0 to 4")):
        assert said.count(f"images of epoch {epoch}, steps {steps}: lost=0 duplicated=0 ") == 1


def counts(points):
    names = ("lost", "duplicated", "dropped", "wrapped", "substituted")
    return {
        step: tuple(int(values[f"data/{name}"]) for name in names)
        for step, values in points.items()
        if "data/lost" in values
    }
