"""MLflow databases for tests."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory) -> Path:
    """MLflow's tables, made once, as that takes seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def database(_empty_database, tmp_path_factory) -> Path:
    """A new MLflow database in a folder of its own."""
    return Path(shutil.copy(_empty_database, tmp_path_factory.mktemp("mlflow") / "mlflow.db"))
