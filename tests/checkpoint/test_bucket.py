"""Checkpoints in a bucket, on an S3 server of this machine, through pyarrow where s3fs is not installed."""

import pytest
from small_checkpoints import assert_same, write

from qdet.checkpoint import Folder, Retention, RunFolder, Saved
from qdet.errors import CheckpointError


@pytest.fixture
def bucket(monkeypatch):
    """URL of an empty bucket, which the environment names."""
    boto3, servers = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "of",
        "AWS_SECRET_ACCESS_KEY": "nobody",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="runs")
    try:
        yield "s3://runs/store"
    finally:
        server.stop()


@pytest.mark.slow
def test_a_bucket_holds_runs_as_a_folder_does(bucket):
    run = RunFolder(Folder.open(f"{bucket}/run"))
    assert run.newest_good(print) is None
    for step in (1, 2, 3, 4):
        written = write(run.at(step), world=3, step=step, seed=step)
        run.tidy(Retention(last=1))
    assert run.steps() == [3, 4]
    saved = Saved(run.newest_good(print))
    assert saved.state.step == 4
    assert_same({name: saved.whole(name) for name in saved.shapes}, written)
    name = next(n for n in run.at(4).names() if n.startswith("rank_00002"))
    run.at(4).put(name, run.at(4).read(name)[:-1])
    said = []
    assert run.newest_good(said.append).name == "step_000003"
    assert name in said[0]


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_told(bucket):
    with pytest.raises((CheckpointError, OSError), match="elsewhere"):
        write(Folder.open("s3://elsewhere/run"))
