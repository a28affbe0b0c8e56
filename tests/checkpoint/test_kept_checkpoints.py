"""Which checkpoints of a run stay: compared with a literal reading of the rule, and on folders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdet.checkpoint import Manifest, Retention, RunFolder, open_folder
from tests.support.small_checkpoints import write


@given(
    found=st.dictionaries(
        st.integers(1, 60), st.none() | st.floats(0, 1) | st.just(float("nan")), max_size=12
    ),
    last=st.integers(1, 4),
    best=st.integers(0, 3),
    every=st.integers(0, 12),
)
def test_retention_follows_a_literal_reading_of_the_rule(found, last, best, every):
    manifests = {
        step: Manifest(step=step, attempt="a", files={}, metrics={} if ap is None else {"val/AP": ap})
        for step, ap in found.items()
    }
    kept = Retention(last=last, best=best, every_steps=every).keeps(manifests)
    aps = {step: ap for step, ap in found.items() if ap is not None and ap == ap}
    for step in found:
        newer = sum(other > step for other in found)
        better = sum((ap, other) > (aps[step], step) for other, ap in aps.items()) if step in aps else None
        reasons = (newer <= last, better is not None and better < best, every > 0 and step % every == 0)
        assert (step in kept) == any(reasons)


@pytest.mark.parametrize("place", ["local", "memory"])
def test_superseded_checkpoints_are_removed_and_the_best_stays(tmp_path, place):
    run = RunFolder(open_folder(tmp_path / "run" if place == "local" else "memory://retention/run"))
    for step, ap in ((1, 0.1), (2, 0.5), (3, 0.2), (4, 0.3), (5, None), (6, None)):
        write(run.at(step), step=step, metrics=None if ap is None else {"val/AP": ap})
        run.tidy(Retention(last=1, best=1))
    assert run.steps() == [2, 5, 6]
    assert run.newest_good(print).name == "step_000006"


def test_incomplete_folders_are_removed_once_a_newer_checkpoint_is_whole(tmp_path):
    run = RunFolder(open_folder(tmp_path))
    for step in (1, 2, 3, 4):
        write(run.at(step), step=step)
        if step in (2, 4):
            (run.at(step).local / "manifest.json").unlink()
    run.tidy(Retention(last=5))
    assert run.steps() == [1, 3, 4]  # 4 may be on its way


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path):
    run = RunFolder(open_folder(tmp_path))
    for step in (1, 2, 3):
        write(run.at(step), step=step)
    next(run.at(3).local.glob("rank_00000*")).write_bytes(b"")
    assert run.newest_good(lambda why: None).name == "step_000002"
    write(run.at(4), step=4)
    run.tidy(Retention(last=2))
    assert run.steps() == [1, 2, 4]


def test_other_things_in_a_runs_folder_are_left_alone(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "step_by_step").mkdir()
    run = RunFolder(open_folder(tmp_path))
    for step in (1, 2, 3):
        write(run.at(step), step=step)
        run.tidy(Retention(last=1, best=0))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "run.json",
        "step_000002",
        "step_000003",
        "step_by_step",
    ]
