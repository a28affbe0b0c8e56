"""How MLflow's page shows the runs of an experiment: as model training, best first, columns that matter."""

import json
from typing import Any

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the page show an experiment as model training, not as prompts and traces."""
PREFIX = "mlflow.sharedViewState."
"""Begins the tags of an experiment that hold its views, which links name; the page keeps views that users
share so."""
BEST, SWEEPS = "qdet", "qdet-sweeps"
"""Names of the views: all runs, the best first; trials below their sweeps, the latest first."""
METRICS = ("val/AP", "val/AP50", "val/AP75", "train/loss")
PARAMS = ("detector", "optim.lr", "train.batch_size")
ENDS = ("qdet.trial_state", "qdet.cause")
"""Tags that say how a trial ended, and why it failed."""
_CREATED = 1735689600000
"""Unix time in ms. Constant, so that the tag changes only with the view."""
_NAME, _DATE, _DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"  # always shown
_STARTED = "attributes.start_time"
_MODELS, _DATASET = "attributes.`Models`", "attributes.`Dataset`"


def view_tags() -> dict[str, str]:
    """Return the tags of an experiment."""
    return KIND | {PREFIX + BEST: _view_best(), PREFIX + SWEEPS: _view_sweeps()}


def show_as_training(client: Any, experiment: Any) -> None:
    """Give an experiment, such as one of an earlier version, the tags of this one."""
    for key, value in view_tags().items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def runs_page(experiment_id: str, view: str = BEST) -> str:
    """Return the path of the page with a view, behind the server's address."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={view}&workflowType=machine_learning"


def _view_best() -> str:
    metrics = [f"metrics.`{name}`" for name in METRICS]
    others = [_MODELS, *(f"params.`{name}`" for name in PARAMS), _DATASET]
    widths = {_NAME: 240, _DATE: 150, _DURATION: 100, _MODELS: 150, _DATASET: 160}
    widths |= dict.fromkeys(metrics, 100) | dict.fromkeys(others[1:-1], 130)
    order = [_NAME, _DATE, *metrics, _DURATION, *others]
    return _view(BEST, metrics[0], [*metrics, *others], order, widths)


def _view_sweeps() -> str:
    """The page puts runs below their parents only where they are in the order of their dates."""
    metrics = ["metrics.`best/val/AP`", *(f"metrics.`{name}`" for name in METRICS[:2])]
    ends = [f"tags.`{name}`" for name in ENDS]
    widths = {_NAME: 280, _DATE: 150, _DURATION: 90, ends[0]: 150, ends[1]: 200, _MODELS: 100}
    order = [_NAME, _DATE, *metrics, *ends, _DURATION, _MODELS]
    return _view(SWEEPS, _STARTED, [*metrics, *ends, _MODELS], order, widths | dict.fromkeys(metrics, 110))


def _view(name: str, by: str, columns: list[str], order: list[str], widths: dict[str, int]) -> str:
    state = {
        "orderByKey": by,
        "orderByAsc": False,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": order,
        "columnWidths": widths,
    }
    return json.dumps(
        {"name": name, "createdAt": _CREATED, "updatedAt": _CREATED, "state": json.dumps(state)}
    )
