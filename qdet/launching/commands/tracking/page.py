"""MLflow's page of the runs, in a browser, for as long as the command runs."""

import signal
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from qdet.errors import ConfigError, TrackingError, first_line
from qdet.launching import paths
from qdet.launching.commands.models.listening import free_port
from qdet.launching.commands.tracking.server import HOST, answers, mlflow_server
from qdet.masking import mask
from qdet.tracking.database import require_database
from qdet.tracking.server import local_database, quiet_environment
from qdet.tracking.view import BEST, SWEEPS, runs_page, show_as_training

USUAL = 5000
"""MLflow's own port."""


def show_runs(*, uri: str | None, experiment: str, port: int, browser: bool, sweeps: bool = False) -> int:
    """Open the runs of an experiment; serve them until Ctrl-C or SIGTERM where they are in a database.

    Raises:
        ConfigError: There are no runs at that place, or something listens at the port.
        TrackingError: The server does not answer, or does not start.
    """
    where, view = paths.tracking_uri(uri), SWEEPS if sweeps else BEST
    if urlsplit(where).scheme in ("http", "https"):
        if not answers(where.rstrip("/")):
            raise TrackingError(f"no MLflow server answers at {mask(where)}; check --tracking-uri")
        _open(where.rstrip("/"), experiment, browser=browser, view=view)
        return 0
    require_database(where)
    with _until_signal():
        print(f"starting MLflow for {_shorten(where)}", flush=True)
        log = paths.state_folder() / "mlflow-server.log"
        with mlflow_server(where, choose_port(port), log) as address:
            _open(address, experiment, browser=browser, view=view)
            print("Ctrl-C ends it", flush=True)
            threading.Event().wait()
    return 0


def choose_port(wanted: int) -> int:
    """Return the port asked for; for 0 the usual one, or a free one where that is taken.

    Raises:
        ConfigError: Something listens at the port asked for.
    """
    if wanted:
        return free_port(HOST, wanted)
    try:
        return free_port(HOST, USUAL)
    except ConfigError:
        return free_port(HOST, 0)


def _open(address: str, experiment: str, *, browser: bool, view: str) -> None:
    page = address + _page(address, experiment, view)
    print(mask(page), flush=True)
    if browser:
        webbrowser.open(page)


def _page(address: str, name: str, view: str) -> str:
    """Return the path of an experiment's page, after giving it the view that the page names."""
    quiet_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=address)
    try:
        found = client.get_experiment_by_name(name)
        if found is None:
            names = sorted(e.name for e in client.search_experiments())
            raise ConfigError(f"--experiment {name} is not at {mask(address)}; it has {', '.join(names)}")
        show_as_training(client, found)
    except MlflowException as error:
        raise TrackingError(f"{mask(address)}: {mask(first_line(error))}") from error
    return runs_page(found.experiment_id, view)


def _shorten(uri: str) -> str:
    database = local_database(uri)
    return mask(uri) if database is None else paths.shorten(str(database))


@contextmanager
def _until_signal() -> Iterator[None]:
    """Leave the block, wherever it is, at Ctrl-C or SIGTERM; later ones are ignored while it cleans up."""

    def leave(number: int, _: object) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, leave) for number in handled}
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
