"""MLflow's local database: made whole before it has its name, and recognised where it is not whole.

MLflow makes tables in dozens of migrations, several seconds long, without a lock: of two processes that open
a new database at once, one finds the tables of the other and both fail, for good.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from qdet.errors import ConfigError, TrackingError
from qdet.storage.process_locks import locked
from qdet.tracking.server import load_mlflow, local_database

_whole: set[Path] = set()


def prepare_database(uri: str) -> None:
    """Make sure that a local database, if `uri` names one, is whole; make it where it is missing.

    Of several processes one makes it while the others wait.

    Raises:
        TrackingError: It is half-migrated, or of another version of MLflow, or cannot be made.
    """
    database = local_database(uri)
    if database is None or (database in _whole and database.is_file()):
        return
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with locked(database.with_name(f".{database.name}.lock")):
            found = _revision(database)
            if found is None:
                _create(database)
            elif found != (wanted := _newest_revision()):
                raise TrackingError(_explain(database, found, wanted))
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(f"{database} cannot be used as MLflow's database: {error}") from error
    _whole.add(database)


def require_database(uri: str) -> None:
    """Raise `ConfigError` where `uri` names a local database that is missing: reading must not make it."""
    database = local_database(uri)
    if database is not None and not database.is_file():
        raise ConfigError(
            f"{database} is not there: no run was logged in this folder. Train one (qdet demo), go to the "
            "folder in which it was trained, or set MLFLOW_TRACKING_URI=sqlite:///FOLDER/mlflow.db"
        )


def open_client(uri: str) -> Any:
    """Return a client of MLflow that fails fast; raises what `prepare_database` does."""
    load_mlflow()
    prepare_database(uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _revision(database: Path) -> str | None:
    """Return the last migration that a database has, "" if unknown; None where there are no tables yet."""
    if not (database.is_file() and database.stat().st_size):
        return None
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as opened:
        tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return None
        rows = (
            opened.execute("SELECT version_num FROM alembic_version").fetchall()
            if "alembic_version" in tables
            else []
        )
    return str(rows[0][0]) if len(rows) == 1 else ""


def _newest_revision() -> str:
    load_mlflow()
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _create(database: Path) -> None:
    """Make the tables in a file beside it, which then takes its name: a process killed meanwhile leaves none.

    The files of MLflow's own experiment, `Default`, go beside it, not where this process happens to run.
    """
    load_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in database.parent.glob(f".{database.name}.new-*"):  # nobody else makes one under the lock
        left.unlink(missing_ok=True)
    new = database.with_name(f".{database.name}.new-{uuid4().hex[:8]}")
    store = SqlAlchemyStore(f"sqlite:///{new}", (database.parent / "mlruns").as_uri())
    store.engine.dispose()
    SqlAlchemyStore._engine_map.pop(f"sqlite:///{new}", None)
    if _revision(database) is None:  # else an MLflow server, which knows no lock, has made it meanwhile
        os.replace(new, database)  # noqa: PTH105 - the name that says what happens
    new.unlink(missing_ok=True)


def _explain(database: Path, found: str, wanted: str) -> str:
    return (
        f"{database} is half-migrated, or of another MLflow (revision {found or 'none'}, needed {wanted}): "
        f"move it away if it holds no runs; else copy it, then run: mlflow db upgrade sqlite:///{database}"
    )
