"""Deliver a model to MLflow's Models page, linked to its run, the validation data and its metrics.

Delivery is idempotent: a model that was created but not finished is continued, found by the spool's key.
"""

from pathlib import Path
from typing import Any

from qdet.tracking.spool import Record

KEY_TAG = "qdet.key"
"""Tag by which a model that is delivered twice is the same one."""
READY = "READY"
NOTE_TAG = "mlflow.note.content"
"""MLflow's tag for a description, in Markdown."""


def deliver_model(client: Any, run_id: str, folder: Path, record: Record) -> str | None:
    """Upload a model and mark it READY, after everything else of it is there.

    Args:
        client: MLflow's.
        run_id: The run that made it.
        folder: The model in MLflow's format, which gets the model's id.
        record: Of the spool: name, step, metrics with their times, params.

    Returns:
        The model's id.
    """
    run = client.get_run(run_id)
    model = _find_or_create(client, run, record)
    if model.status == READY:
        return model.model_id
    _write_id(folder, model.model_id, run_id)
    client.log_model_artifacts(model.model_id, str(folder))
    _link(client, run, model.model_id, record)
    client.finalize_logged_model(model.model_id, READY)
    return model.model_id


def _find_or_create(client: Any, run: Any, record: Record) -> Any:
    named = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"name = '{record['name']}'", max_results=100
    )
    for model in named:
        if model.source_run_id == run.info.run_id and model.tags.get(KEY_TAG) == record["key"]:
            return model
    return client.create_logged_model(
        run.info.experiment_id,
        name=record["name"],
        source_run_id=run.info.run_id,
        tags={KEY_TAG: record["key"], NOTE_TAG: _usage(run.info.run_id, record["name"])},
        params=record["params"],
        model_type="object-detector",
    )


def _usage(run_id: str, name: str) -> str:
    """Return how the model is used, from Python and from the command line."""
    address = f"runs:/{run_id}/{name}"
    return (
        f'```\nqdet predict {address} photo.jpg\n\nmodel = qdet.load("{address}")\n'
        f'model = mlflow.pyfunc.load_model("{address}")\n```\n\n'
        "Loaded and compared with its checkpoint before it was logged."
    )


def _write_id(folder: Path, model_id: str, run_id: str) -> None:
    """Name the model and its run in the folder's MLmodel, where MLflow looks for them."""
    from mlflow.models import Model

    description = Model.load(str(folder))
    description.model_id = description.model_uuid = model_id
    description.run_id = run_id
    description.save(str(folder / "MLmodel"))


def _link(client: Any, run: Any, model_id: str, record: Record) -> None:
    """Make the model an output of its run, and give it the metrics of its weights on the validation data."""
    from mlflow.entities import LoggedModelOutput, Metric

    if model_id not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, record["step"])])
    data = _validation_data(run)
    metrics = [
        Metric(
            key,
            value,
            record["stamps"].get(key, record["at"]),
            record["step"],
            model_id=model_id,
            dataset_name=data.name if data else None,
            dataset_digest=data.digest if data else None,
            run_id=run.info.run_id,
        )
        for key, value in record["values"].items()
    ]
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)


def _validation_data(run: Any) -> Any:
    for given in run.inputs.dataset_inputs if run.inputs else []:
        if any(tag.key == "mlflow.data.context" and tag.value == "validation" for tag in given.tags):
            return given.dataset
    return None
