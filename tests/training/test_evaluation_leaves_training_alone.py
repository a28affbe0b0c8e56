"""An evaluation after every epoch changes no number of the training around it."""

import pytest

from qdet.config import override
from tests.support.ranks import losses, tiny_job, train_all


@pytest.mark.slow
@pytest.mark.ci_slow
def test_losses_and_the_last_metrics_are_the_same_with_more_evaluations(demo_shards, tmp_path):
    # 48 images make 6 steps of an epoch; the average and dropout have states of their own
    changes = {"train.workers": 1, "train.steps": 14, "optim.ema_decay": 0.9, "train.log_every": 1}
    once = tiny_job(demo_shards, **changes, **{"train.eval_every": 0})
    often = override(once, {"train.eval_every": 1})
    points = train_all(1, {"once": once, "often": often}, tmp_path)
    assert len(losses(points["once"])) == 14
    assert losses(points["once"]) == losses(points["often"])
    assert evaluated(points["once"]) == [14]
    assert evaluated(points["often"]) == [6, 12, 14]
    last = [{k: v for k, v in of[14].items() if k.startswith("val/")} for of in points.values()]
    assert last[0] == last[1]


def evaluated(points) -> list[int]:
    return [step for step, values in points.items() if "val/AP" in values]
