"""Going on: bit for bit where ranks and stage stay, and from any ranks and stage to any others."""

import shutil

import pytest

from qdet.config import override
from tests.support.random_job import comparable_state, random_job
from tests.support.ranks import assert_same, checkpoint, losses, on_ranks, save_again, tiny_job, train_all

pytestmark = pytest.mark.timeout(900)
STAGES = (0, 1, 2, 3)  # 3 last: DeepSpeed replaces torch's linear function for good once it has run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def whole(demo_shards, store):
    """Runs of six steps on two ranks, one for every stage."""
    return train_all(2, {f"run{zero}": random_job(demo_shards, zero=zero) for zero in STAGES}, store)


def halves(store, into):
    """Make runs that stopped at step 3 of 6: what their later steps left behind is not there."""
    for zero in STAGES:
        shutil.copytree(store / f"run{zero}" / "step_000003", into / f"run{zero}" / "step_000003")


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_resumed_run_is_bitwise_the_same(whole, demo_shards, store, tmp_path):
    halves(store, tmp_path)
    resumed = train_all(2, {f"run{zero}": random_job(demo_shards, zero=zero) for zero in STAGES}, tmp_path)
    for name, points in resumed.items():
        assert sorted(points) == [4, 5, 6]
        assert losses(points) == losses(whole[name])[3:]
        assert_same(checkpoint(store, name, 6), checkpoint(tmp_path, name, 6))
        assert comparable_state(checkpoint(store, name, 6)) == comparable_state(checkpoint(tmp_path, name, 6))


@pytest.mark.slow
def test_dropout_and_drop_path_change_the_losses(whole, demo_shards, tmp_path):
    calm = override(random_job(demo_shards, zero=1), {"detector.dropout": 0.0})
    calmer = override(calm, {"detector.backbone.drop_path": 0.0})
    found = train_all(2, {"calm": calm, "calmer": calmer}, tmp_path)
    assert len({losses(points)[0] for points in (whole["run1"], *found.values())}) == 3


def saved_again(demo_shards, store, into, *, ranks, stages):
    """Load runs of one stage by another stage and number of ranks, save them, and compare all tensors."""
    jobs = {}
    for before, after in stages:
        name = f"from{before}to{after}"
        shutil.copytree(store / f"run{before}" / "step_000003", into / name / "step_000003")
        jobs[name] = random_job(demo_shards, zero=after, workers=ranks)
    on_ranks(ranks, save_again, jobs, into, into / "again", apart=True)
    for (before, after), name in zip(stages, jobs, strict=True):
        there, here = checkpoint(into / "again", name, 3), checkpoint(store, f"run{before}", 3)
        assert (there.manifest.world_size, there.manifest.zero) == (ranks, after)
        kinds = [n for n in here.shapes if not n.startswith("ledger/")]
        assert {n for n in there.shapes if not n.startswith("ledger/")} == set(kinds)
        for kind in kinds:
            assert there.whole(kind).equal(here.whole(kind)), (name, kind)
        assert comparable_state(there) == comparable_state(here)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_loads_any_stage(whole, demo_shards, store, tmp_path, ranks):
    pairs = [(before, after) for after in STAGES for before in STAGES]
    saved_again(demo_shards, store, tmp_path, ranks=ranks, stages=pairs)


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_run_resumes_with_another_number_of_ranks_and_stage(demo_shards, tmp_path):
    short = {"train.steps": 6, "train.checkpoint_every": 3}
    two = train_all(
        2, {"run": tiny_job(demo_shards, **short, **{"train.zero": 3, "train.workers": 2})}, tmp_path
    )
    shutil.rmtree(tmp_path / "run" / "step_000006")
    one = train_all(1, {"run": tiny_job(demo_shards, **short, **{"train.zero": 1})}, tmp_path)
    assert sorted(one["run"]) == [4, 5, 6]
    assert losses(one["run"]) == pytest.approx(losses(two["run"])[3:], rel=1e-6)
