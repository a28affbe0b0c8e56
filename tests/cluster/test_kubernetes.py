"""The Kubernetes files, strictly by the fields of their kinds, and what they promise."""

import copy
import runpy
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from qdet.launching import cli
from tests.support.kubernetes_fields import find_faults

REPO = Path(__file__).resolve().parents[2]
FILES = ("kuberay-rayjob.yaml", "kuberay-cluster.yaml")


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((REPO / "cluster" / name).read_text()))


def ray_cluster(name: str) -> dict[str, Any]:
    """Return the description of a file's Ray cluster."""
    spec = read(name)[0]["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(name: str) -> list[dict[str, Any]]:
    cluster = ray_cluster(name)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("name", FILES)
def test_every_object_has_only_fields_of_its_kind(name: str):
    for thing in read(name):
        assert find_faults(thing) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ttlSeconds": 1}, "ttlSeconds: no such field"),
        ({"backoffLimit": "0"}, "'0' is no whole number"),
        ({"shutdownAfterJobFinishes": "true"}, "is no true or false"),
        ({"submissionMode": "Http"}, "'Http' is none of"),
    ],
)
def test_a_fault_is_named(change: dict[str, Any], fault: str):
    (job,) = read("kuberay-rayjob.yaml")
    (found,) = find_faults(job | {"spec": job["spec"] | change})
    assert found.endswith(fault) or fault in found


def test_a_fault_deep_inside_is_named():
    (job,) = copy.deepcopy(read("kuberay-rayjob.yaml"))
    pod = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]
    pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = "256 GB"
    pod["metadata"] = {"annotations": {"prometheus.io/port": 8080}}
    assert len(find_faults(job)) == 2


@pytest.mark.parametrize("name", FILES)
def test_ray_is_ours_and_behind_a_token_from_a_secret(name: str):
    cluster = ray_cluster(name)
    assert cluster["authOptions"] == {"mode": "token", "secretName": "qdet-ray-token"}
    assert (
        "create secret generic qdet-ray-token --from-literal=auth_token="
        in (REPO / "cluster" / name).read_text()
    )
    dependencies = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = [one for one in dependencies if one.startswith("ray[")]
    assert Requirement(ray).specifier.contains(cluster["rayVersion"])


@pytest.mark.parametrize("name", FILES)
def test_containers_agree(name: str):
    pods = [group["template"]["spec"] for group in groups(name)]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert all(container["env"] == containers[0]["env"] for container in containers)
    for pod in pods:
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} <= volumes


@pytest.mark.parametrize("name", FILES)
def test_pods_run_as_the_image_s_user_and_are_scraped(name: str):
    uid = int((REPO / "cluster" / "Dockerfile").read_text().partition("--uid ")[2].split()[0])
    for group in groups(name):
        security = group["template"]["spec"]["securityContext"]
        assert (security["runAsUser"], security["fsGroup"], security["runAsNonRoot"]) == (uid, uid, True)
        annotations = group["template"]["metadata"]["annotations"]
        (container,) = group["template"]["spec"]["containers"]
        ports = {str(port["containerPort"]) for port in container["ports"] if port["name"] == "metrics"}
        assert {annotations["prometheus.io/port"], group["rayStartParams"]["metrics-export-port"]} == ports


@pytest.mark.parametrize("name", FILES)
def test_workers_tolerate_the_taint_of_the_gpus_that_they_ask_for(name: str):
    for group in ray_cluster(name)["workerGroupSpecs"]:
        (tolerated,) = group["template"]["spec"]["tolerations"]
        assert tolerated["key"] in group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_rayjob_starts_a_job_that_takes_its_flags(monkeypatch: pytest.MonkeyPatch):
    (rayjob,) = read("kuberay-rayjob.yaml")
    python, job, *flags = shlex.split(rayjob["spec"]["entrypoint"])
    assert python == "python"
    assert (REPO / job).is_file()
    caught: list = []
    monkeypatch.setattr(cli, "_run", lambda command, callbacks: caught.append(command))
    cli.launch(runpy.run_path(str(REPO / job))["job"], args=flags)
    (container,) = groups("kuberay-rayjob.yaml")[1]["template"]["spec"]["containers"]
    assert caught[0].job.train.workers == container["resources"]["limits"]["nvidia.com/gpu"]


def test_the_standing_cluster_has_a_group_for_every_type_of_gpu():
    cluster = ray_cluster("kuberay-cluster.yaml")
    chosen = [group["template"]["spec"]["nodeSelector"] for group in cluster["workerGroupSpecs"]]
    assert len({str(one) for one in chosen}) == len(chosen) > 1
    assert cluster["enableInTreeAutoscaling"]


def test_budgets_and_redis_select_pods_that_are_there():
    cluster, head, workers, service, redis = read("kuberay-cluster.yaml")
    labels = [group["template"]["metadata"]["labels"] for group in groups("kuberay-cluster.yaml")]
    for budget, pods in ((head, labels[:1]), (workers, labels[1:])):
        wanted = dict(budget["spec"]["selector"]["matchLabels"])
        assert wanted.pop("ray.io/cluster") == cluster["metadata"]["name"]  # KubeRay's own label
        assert all(wanted.items() <= pod.items() for pod in pods)
    assert service["spec"]["selector"] == redis["spec"]["template"]["metadata"]["labels"]
    tolerance = cluster["spec"]["gcsFaultToleranceOptions"]
    assert (
        tolerance["redisAddress"]
        == f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    )
    (password,) = redis["spec"]["template"]["spec"]["containers"][0]["env"]
    assert password["valueFrom"] == tolerance["redisPassword"]["valueFrom"]
