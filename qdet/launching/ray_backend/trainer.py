"""Ray Train's trainer, without the process that hands out its datasets: workers read shards themselves."""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback


class ShardTrainer(TorchTrainer):
    """A trainer of workers that are given no datasets of Ray's.

    Ray Train starts a `DatasetManager` with every group of workers, needed or not: a process of Ray's
    beside every trial of a sweep.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]
