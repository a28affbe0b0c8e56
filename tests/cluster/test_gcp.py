"""The Google Cloud file: Ray's own schema and checks, and its bootstrap against stubs of Google's client."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml

FILE = Path(__file__).resolve().parents[2] / "cluster" / "gcp-gpu.yaml"
GIVEN = {"PROJECT": "detection", "SUBNET": "private", "FILESTORE": "10.1.2.3"}
ACCOUNT = {"projectId": "detection", "email": "ray-autoscaler-sa-v1@detection.iam.gserviceaccount.com"}


@pytest.fixture
def config() -> dict[str, Any]:
    """The file with its placeholders replaced, after Ray's checks."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = FILE.read_text()
    for name, value in GIVEN.items():
        assert name in text
        text = text.replace(name, value)
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Stand-ins for Google's packages, which qdet does not depend on; returns the client that they build."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the SSH key there
    for name in [name for name in sys.modules if name.startswith("ray.autoscaler._private.gcp")]:
        monkeypatch.delitem(sys.modules, name)
    packages = {name: MagicMock() for name in ("googleapiclient", "google_auth_httplib2", "httplib2")}
    packages["googleapiclient.discovery"] = packages["googleapiclient"].discovery
    packages["googleapiclient.errors"] = packages["googleapiclient"].errors
    packages["googleapiclient"].errors.HttpError = type("HttpError", (Exception,), {})
    for name, package in packages.items():
        monkeypatch.setitem(sys.modules, name, package)
    client = packages["googleapiclient"].discovery.build.return_value
    answer(client)
    return client


def answer(client: MagicMock) -> None:
    """Let the stub know a project that has no SSH key, and no policy."""
    projects = client.projects.return_value
    project = {"projectId": "detection", "name": "detection", "lifecycleState": "ACTIVE"}
    projects.get.return_value.execute.return_value = project | {
        "commonInstanceMetadata": {"items": [], "fingerprint": "f"}
    }
    projects.serviceAccounts.return_value.get.return_value.execute.return_value = ACCOUNT
    projects.getIamPolicy.return_value.execute.return_value = {"bindings": []}
    projects.setCommonInstanceMetadata.return_value.execute.return_value = {"name": "operation"}
    client.globalOperations.return_value.get.return_value.execute.return_value = {"status": "DONE"}


def test_ray_s_bootstrap_keeps_the_network_and_the_workers_account(config: dict[str, Any], google: MagicMock):
    from ray.autoscaler._private.gcp.config import bootstrap_gcp

    found = bootstrap_gcp(config)
    google.subnetworks.assert_not_called()  # it would take any subnet, with public addresses
    (bound,) = google.projects.return_value.setIamPolicy.call_args_list
    assert f"serviceAccount:{ACCOUNT['email']}" in str(bound)
    assert found["head_node"]["serviceAccounts"][0]["email"] == ACCOUNT["email"]
    assert Path(found["auth"]["ssh_private_key"]).is_file()
    for kind, node in found["available_node_types"].items():
        assert node["node_config"] == config["available_node_types"][kind]["node_config"]


@pytest.mark.usefixtures("google")
@pytest.mark.parametrize("kind", ["head", "gpu"])
def test_ray_takes_the_nodes_for_instances_of_compute_engine(config: dict[str, Any], kind: str):
    from ray.autoscaler._private.gcp.config import get_node_type
    from ray.autoscaler._private.gcp.node import GCPNodeType

    node = config["available_node_types"][kind]["node_config"]
    assert get_node_type(node) == GCPNodeType.COMPUTE
    assert all("accessConfigs" not in interface for interface in node["networkInterfaces"])


def test_workers_are_spot_nodes_that_gpus_allow(config: dict[str, Any]):
    scheduling = config["available_node_types"]["gpu"]["node_config"]["scheduling"]
    assert scheduling["provisioningModel"] == "SPOT"
    assert scheduling["onHostMaintenance"] == "TERMINATE"  # GPUs cannot migrate
    assert scheduling["automaticRestart"] is False  # which spot nodes must say


def test_every_node_mounts_the_share_and_starts_ray_behind_a_token(config: dict[str, Any]):
    assert any("10.1.2.3:/shared /shared" in line for line in config["setup_commands"])
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token QDET_ROOT=/shared" in command
        assert command.startswith("cd ~/qdet")
