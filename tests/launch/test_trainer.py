"""Ray Train's trainer without its datasets, against Ray Train's own."""

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from qdet.launching.ray_backend.trainer import ShardTrainer


def callbacks_of(kind: type[TorchTrainer], folder) -> list[str]:
    config = RunConfig(name="run", storage_path=str(folder))
    trainer = kind(print, scaling_config=ScalingConfig(num_workers=1), run_config=config)
    return [type(callback).__name__ for callback in trainer._create_default_callbacks()]


def test_it_does_all_that_ray_train_does_but_for_datasets(tmp_path):
    theirs = callbacks_of(TorchTrainer, tmp_path)
    assert "DatasetsCallback" in theirs
    assert callbacks_of(ShardTrainer, tmp_path) == [name for name in theirs if name != "DatasetsCallback"]
