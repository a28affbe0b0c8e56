"""Check, before workers start, that a job can start from the model that it names."""

from qdet.checkpoint.class_rows import tensor_shapes
from qdet.checkpoint.fit import check_fit, match_parts
from qdet.data.shards.categories import Categories
from qdet.errors import CheckpointError, ConfigError, TrackingError
from qdet.inference import origin
from qdet.job import Job


def check_start(job: Job, categories: Categories | None) -> list[str]:
    """Return what of the model of `store.init_from` a job would take over; its weights are not read.

    Args:
        job: A job with absolute paths.
        categories: Of its training shards; None where only workers see them.

    Raises:
        ConfigError: There is no such model, or the job's detector is another or of other sizes.
    """
    source = job.store.init_from or ""
    passed_over: list[str] = []
    try:
        address = origin.locate(source, store=job.store.path, announce=passed_over.append)
        found = origin.describe(address)
        names = found.classes.names if categories is None else categories.names
        fit = check_fit(found.detector, found.classes.names, job.detector, names, source=address)
        match_parts(tensor_shapes(job.detector, len(names)), job.store.init_parts)
    except (CheckpointError, TrackingError) as error:
        raise ConfigError(f"--store.init-from {source}: {error}") from error
    parts = f": {', '.join(job.store.init_parts)} alone" if job.store.init_parts else ""
    return [*passed_over, f"starts from {address}{parts}", *fit.describe()]
