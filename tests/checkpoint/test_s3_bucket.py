"""Checkpoints in a bucket, on an S3 server of this machine, through pyarrow where s3fs is not installed."""

import pytest

from qdet.checkpoint import Checkpoint, Retention, RunFolder, open_folder
from qdet.errors import CheckpointError
from tests.support.small_checkpoints import assert_same, write


@pytest.mark.slow
def test_a_bucket_holds_runs_as_a_folder_does(bucket):
    run = RunFolder(open_folder(f"{bucket}/run"))
    assert run.newest_good(print) is None
    for step in (1, 2, 3, 4):
        written = write(run.at(step), world=3, step=step, seed=step)
        run.tidy(Retention(last=1))
    assert run.steps() == [3, 4]
    saved = Checkpoint(run.newest_good(print))
    assert saved.state.step == 4
    assert_same({name: saved.whole(name) for name in saved.shapes}, written)
    name = next(n for n in run.at(4).names() if n.startswith("rank_00002"))
    run.at(4).put(name, run.at(4).read(name)[:-1])
    said = []
    assert run.newest_good(said.append).name == "step_000003"
    assert name in said[0]


@pytest.mark.slow
def test_a_missing_bucket_is_named(bucket):
    with pytest.raises((CheckpointError, OSError), match="elsewhere"):
        write(open_folder("s3://elsewhere/run"))
