"""A local database that does not exist yet, opened by several at once."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from qdet.tracking.database import open_client


def list_experiments(uri: str) -> list[str]:
    """Open a client and ask it for something."""
    return [one.name for one in open_client(uri).search_experiments()]


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_new_database_may_be_opened_by_several_at_once(tmp_path: Path, kind: str):
    """Driver and worker do, of one process with `--local`, of two on Ray."""
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    spawn = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(4) if kind == "threads" else ProcessPoolExecutor(2, mp_context=spawn) as pool:
        assert list(pool.map(list_experiments, [uri] * 4)) == [["Default"]] * 4
