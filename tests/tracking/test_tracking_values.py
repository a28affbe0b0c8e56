"""Addresses, secrets, names and settings on their way to MLflow."""

import enum
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdet.masking import is_secret_name, mask
from qdet.tracking import git_commit, tracking_environment, tracking_uri
from qdet.tracking.server import artifact_location
from qdet.tracking.values import metrics, params, stable


def test_default_is_an_absolute_database_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_location(tracking_uri(), "my exp/1") == f"file://{tmp_path}/mlruns/my_exp_1"
    assert tracking_environment()["MLFLOW_TRACKING_URI"] == tracking_uri()


def test_the_variable_is_honoured_and_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    assert tracking_uri() == f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret99@mlflow.example:8080")
    assert tracking_uri() == "https://me:secret99@mlflow.example:8080"
    assert artifact_location(tracking_uri(), "e") is None


def test_commit_comes_from_the_variable_or_from_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("QDET_GIT_COMMIT", raising=False)
    assert git_commit() is None
    assert "QDET_GIT_COMMIT" not in tracking_environment()
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.hooksPath=/dev/null"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *command], check=True)
    found = git_commit()
    assert found is not None
    assert len(found) == 40
    monkeypatch.setenv("QDET_GIT_COMMIT", "abc")
    assert git_commit() == tracking_environment()["QDET_GIT_COMMIT"] == "abc"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:pw@db/mlflow", "postgresql://me:***@db/mlflow"),
        ("https://x/y?X-Amz-Signature=abc&n=1", "https://x/y?X-Amz-Signature=***&n=1"),
        ("https://x/y?token=abc#there", "https://x/y?token=***#there"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("ghp_" + "a" * 36, "***"),
        ("hf_" + "a" * 34, "***"),
        ("AKIA" + "A" * 16, "***"),
        ("s3://bucket/path:with/colons@8", "s3://bucket/path:with/colons@8"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("0.0001", "0.0001"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text, masked):
    assert mask(text) == masked


def test_values_of_secret_variables_are_masked_everywhere(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abcdefgh1234")
    monkeypatch.setenv("TOKEN_PATH", "/home/me/secret")
    assert mask("submit with abcdefgh1234!") == "submit with ***!"
    assert mask("/home/me/secret/x") == "/home/me/secret/x"


@pytest.mark.parametrize(
    "key", ["password", "store.api_key", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "a.secret", "AWS_ACCESS_KEY_ID"]
)
def test_names_of_secrets_are_recognized(key):
    assert is_secret_name(key)
    assert params({key: "x"}) == {key: "***"}


@pytest.mark.parametrize("key", ["detector.tokens", "detector.key_dim", "data.train", "loss.secretion"])
def test_settings_that_resemble_secrets_are_not_masked(key):
    assert not is_secret_name(key)


class Mode(enum.Enum):
    FAST = "fast"


def test_settings_are_logged_alike_in_every_process():
    assert stable(object()) == "<object object>"
    assert stable({"b", "a"}) == "{a, b}"
    assert stable(Mode.FAST) == "fast"
    assert stable(len) == "builtins.len"
    assert stable(("a", 1.5, None)) == "('a', 1.5, None)"
    assert params({"x": None, "y": 1e-5, "z": "s"}) == {"x": "None", "y": "1e-05", "z": "s"}


@settings(deadline=None)  # the first one imports MLflow
@given(st.text(max_size=300))
def test_every_metric_name_is_allowed_by_mlflow(name):
    from mlflow.utils.validation import _validate_metric_name

    (safe,) = metrics({f"val/{name}": 1})
    _validate_metric_name(safe)
