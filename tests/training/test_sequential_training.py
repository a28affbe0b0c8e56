"""Training on shards that are read from front to back: equal steps, honest accounts, going on elsewhere."""

import json
import shutil

import pytest

from qdet.config import override
from qdet.errors import CheckpointError
from tests.support.ranks import tiny_job, train_all


@pytest.mark.slow
def test_ranks_train_evaluate_and_resume_on_sequential_shards(demo_shards, tmp_path, capfd):
    """On a command's output, by two ranks and then by one, with fewer shards than ranks."""
    (tar,) = (demo_shards / "train").glob("*.tar")
    (tmp_path / "classes.json").write_text(json.dumps(_categories(demo_shards)))
    job = tiny_job(
        demo_shards,
        **{
            "data.train": f"pipe:cat {tar}",
            "data.reading": "sequential",
            "data.samples": 40,
            "data.allow_pipes": ("cat",),
            "data.categories": str(tmp_path / "classes.json"),
            "train.batch_size": 10,
            "train.workers": 2,
            "train.steps": 6,
            "train.checkpoint_every": 3,
        },
    )
    points = train_all(2, {"run": job}, tmp_path)["run"]
    assert [points[step]["data/received"] for step in (4, 6)] == [40, 20]
    assert not any("data/lost" in values for values in points.values())
    assert "val/AP" in points[6]
    shutil.rmtree(tmp_path / "run" / "step_000006")
    said = capfd.readouterr().out
    assert said.count("Not promised: which images a step or an epoch holds") == 1
    assert "lost=" not in said
    assert "images of epoch 0, steps 0 to 3: received=40 substituted=0; without a plan" in said

    alone = override(job, {"train.workers": 1})
    points = train_all(1, {"run": alone}, tmp_path)["run"]
    assert [points[step]["data/received"] for step in (4, 6)] == [40, 20]  # with those of before
    assert "resumes at step 3 with freshly shuffled shards" in capfd.readouterr().out

    for change in ({"data.samples": 44}, {"data.reading": "offset", "data.train": str(tar.parent)}):
        path = next(iter(change))
        with pytest.raises(CheckpointError, match=f"--{path} is"):
            train_all(1, {"run": override(alone, change | {"train.steps": 7})}, tmp_path)


def _categories(demo_shards):
    return json.loads((demo_shards / "train" / "manifest.json").read_text())["categories"]
