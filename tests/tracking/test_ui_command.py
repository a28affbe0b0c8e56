"""`qdet ui`: the view that it opens, its server's settings, and what it says where nothing can be shown."""

import json
import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from qdet.errors import ConfigError, TrackingError
from qdet.launching import paths
from qdet.launching.commands.tracking import page
from qdet.launching.commands.tracking.server import mlflow_server, server_environment
from qdet.tracking import view
from qdet.tracking.database import open_client


@pytest.mark.parametrize(
    ("name", "by"), [(view.BEST, "metrics.`val/AP`"), (view.SWEEPS, "attributes.start_time")]
)
def test_a_view_sorts_and_shows_what_matters(name: str, by: str):
    envelope = json.loads(view.view_tags()[view.PREFIX + name])
    state = json.loads(envelope["state"])
    assert isinstance(envelope["createdAt"], int)  # without it the page refuses the view
    assert (state["orderByKey"], state["orderByAsc"]) == (by, False)
    assert set(state["selectedColumns"]) <= set(state["columnOrder"])
    assert set(state["columnWidths"]) == set(state["columnOrder"])
    shown = urlsplit(view.runs_page("7", name)).fragment
    path, _, query = shown.partition("?")
    assert path == "/experiments/7/runs"
    given = parse_qs(query)
    assert given["viewStateShareKey"] == [name]
    assert given["workflowType"] == ["machine_learning"]
    assert len(given) == 2  # any other, such as an order, makes the page ignore the view


def test_experiments_get_the_view(database):
    client = open_client(f"sqlite:///{database}")
    client.create_experiment("older", tags={"mine": "kept"})
    view.show_as_training(client, client.get_experiment_by_name("older"))
    tags = client.get_experiment_by_name("older").tags
    assert tags == view.view_tags() | {"mine": "kept"}


def test_a_new_database_keeps_the_files_of_default_beside_it(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    default = client.get_experiment("0")
    assert default.artifact_location == f"file://{tmp_path}/mlruns/0"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_server_is_light_and_its_database_not_in_the_process_list():
    settings = server_environment(
        "postgresql://me:pw@db/x", {"MLFLOW_TRACKING_URI": "http://other", "PATH": "/bin"}
    )
    assert settings["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert settings["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:pw@db/x"
    assert "MLFLOW_TRACKING_URI" not in settings
    assert settings["PATH"] == "/bin"


def test_a_taken_port_is_refused_if_asked_for_and_avoided_if_not(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}"):
            page.choose_port(port)
        monkeypatch.setattr(page, "USUAL", port)
        assert page.choose_port(0) not in (0, port)


def test_a_folder_without_runs_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    monkeypatch.delenv(paths.TRACKING, raising=False)
    with pytest.raises(ConfigError, match=f"{tmp_path}/mlflow.db is not there"):
        page.show_runs(uri=None, experiment="qdet", port=0, browser=False)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_does_not_answer_is_named():
    with pytest.raises(TrackingError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"):
        page.show_runs(uri="http://127.0.0.1:9", experiment="qdet", port=0, browser=False)


def test_an_unknown_experiment_is_named(database):
    with pytest.raises(ConfigError, match=r"--experiment qdte is not at .*; it has Default"):
        page._page(f"sqlite:///{database}", "qdte", view.BEST)


def test_a_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database")
    where = f"sqlite:///{tmp_path}/mlflow.db"
    with (
        pytest.raises(TrackingError, match="ended with exit code"),
        mlflow_server(where, page.choose_port(0), tmp_path / "log"),
    ):
        pytest.fail("it answers")
