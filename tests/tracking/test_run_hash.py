"""Runs of one name in different stores are different runs in MLflow; all processes of one find the same."""

from pathlib import Path

import pytest

from qdet.tracking import MLflowTracker


@pytest.fixture
def uri(database: Path) -> str:
    return f"sqlite:///{database}"


def _run_id(folder: Path, uri: str, run_hash: str | None) -> str:
    tracker = MLflowTracker.open(
        folder, experiment="e", run_name="tiny-calm-owl", run_hash=run_hash, tracking_uri=uri
    )
    found = tracker.wait_for_run(60)
    tracker.close(wait=60)
    assert isinstance(found, str)
    return found


def test_a_name_and_its_hash_are_one_run_and_another_hash_is_another(tmp_path: Path, uri: str):
    from mlflow import MlflowClient

    first = _run_id(tmp_path / "driver", uri, "0a0a0a0a")
    other = _run_id(tmp_path / "elsewhere", uri, "0b0b0b0b")
    assert other != first
    assert _run_id(tmp_path / "worker", uri, "0a0a0a0a") == first
    assert _run_id(tmp_path / "driver", uri, "0b0b0b0b") == other  # a spool of another run of that name
    client = MlflowClient(tracking_uri=uri)
    assert client.get_run(first).data.tags["qdet.hash"] == "0a0a0a0a"
    assert {client.get_run(run).info.run_name for run in (first, other)} == {"tiny-calm-owl"}
    # A run of an earlier version has a name alone: the first of that name.
    assert _run_id(tmp_path / "old", uri, None) == first
