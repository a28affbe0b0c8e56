"""Whether a job's datasets have objects: nothing is learned from one without, and there is no AP."""

from qdet.data.shards.report import describe_objects
from qdet.errors import ConfigError
from qdet.launching.runs.prepared import Prepared


def describe_missing_objects(prepared: Prepared) -> list[str]:
    """Return a warning for each dataset without objects; third-party shards behind a URL are not known."""
    job = prepared.job
    warnings = (
        describe_objects(prepared.train.objects, f"--data.train {job.data.train}", training=True),
        describe_objects(prepared.val.objects, f"--data.val {job.data.val}", training=False),
    )
    return [warning for warning in warnings if warning is not None]


def require_ground_truth(prepared: Prepared) -> None:
    """Raise ConfigError where a sweep would compare trials by AP without any ground truth."""
    if prepared.val.objects == 0:
        raise ConfigError(
            f"--data.val {prepared.job.data.val} has no objects, so there is no AP to compare trials by; "
            "give a validation set with objects"
        )
