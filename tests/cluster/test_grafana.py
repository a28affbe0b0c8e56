"""The dashboard: every metric that it asks for is exported by Ray or `qdet serve`; panels do not overlap."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from qdet.serving.metrics import ServiceMetrics

FOLDER = Path(__file__).resolve().parents[2] / "cluster" / "grafana"
BOARD = json.loads((FOLDER / "qdet.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
NAME = re.compile(r"\b((?:ray|qdet)_\w+)")


def ours() -> set[str]:
    """Names in the answer of `qdet serve` to Prometheus, after one request and one batch."""
    metrics = ServiceMetrics()
    metrics.observe_batch(2, 0.1)
    metrics.observe_request("/predict", 200, 0.1)
    text = generate_latest(metrics.registry).decode()
    return set(re.findall(r"^(qdet_\w+)", text, flags=re.MULTILINE))


def of_ray() -> set[str]:
    """Names of Ray's node reporter, and those of its core that its own dashboards ask for."""
    from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    core = set(re.findall(r"\b(ray_\w+)", inspect.getsource(default_dashboard_panels)))
    return core | {f"ray_{name}" for name in METRICS_GAUGES}


def expressions() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_every_metric_is_exported(title: str, expression: str):
    names = set(NAME.findall(expression))
    assert names, title
    assert names <= ours() | of_ray(), title


def test_a_metric_that_nobody_exports_would_be_seen():
    assert not {"qdet_requests", "ray_node_gpu_utilization"} & (ours() | of_ray())


def test_what_the_service_exports_is_shown():
    shown = {name for _, expression in expressions() for name in NAME.findall(expression)}
    families = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in shown}
    assert {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in ours()} <= families


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_the_datasource_is_chosen_on_the_page():
    variables = {one["name"] for one in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD["panels"]))) - {"__rate_interval"}
    assert used <= variables


def test_prometheus_finds_ray_where_ray_writes_its_nodes():
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    jobs: list[dict[str, Any]] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    (files,) = [job["file_sd_configs"][0]["files"] for job in jobs if job["job_name"] == "ray"]
    assert [Path(one).name for one in files] == [PROMETHEUS_SERVICE_DISCOVERY_FILE]
