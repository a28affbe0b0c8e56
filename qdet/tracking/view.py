"""How MLflow's page shows the runs of an experiment: as model training, best first, columns that matter."""

import json
from typing import Any

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the page show an experiment as model training, not as prompts and traces."""
NAME = "qdet"
TAG = f"mlflow.sharedViewState.{NAME}"
"""Tag of an experiment that holds a view, which a link names; the page keeps views that users share so."""
METRICS = ("val/AP", "val/AP50", "val/AP75", "train/loss")
PARAMS = ("detector", "optim.lr", "train.batch_size")
_CREATED = 1735689600000
"""Unix time in ms. Constant, so that the tag changes only with the view."""


def view_tags() -> dict[str, str]:
    """Return the tags of an experiment."""
    return KIND | {TAG: _view()}


def show_as_training(client: Any, experiment: Any) -> None:
    """Give an experiment, such as one of an earlier version, the tags of this one."""
    for key, value in view_tags().items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def runs_page(experiment_id: str) -> str:
    """Return the path of the page with that view, behind the server's address."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={NAME}&workflowType=machine_learning"


def _view() -> str:
    metrics = [f"metrics.`{name}`" for name in METRICS]
    others = ["attributes.`Models`", *(f"params.`{name}`" for name in PARAMS), "attributes.`Dataset`"]
    name, created, duration = "attributes.`Run Name`", "runDateAndNestInfo", "duration"  # always shown
    state = {
        "orderByKey": metrics[0],
        "orderByAsc": False,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [*metrics, *others],
        "columnOrder": [name, created, *metrics, duration, *others],
        "columnWidths": {name: 240, created: 150, duration: 100, others[0]: 150, others[-1]: 160}
        | dict.fromkeys(metrics, 100)
        | dict.fromkeys(others[1:-1], 130),
    }
    return json.dumps(
        {"name": NAME, "createdAt": _CREATED, "updatedAt": _CREATED, "state": json.dumps(state)}
    )
