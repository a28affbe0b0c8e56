"""A model's own pipeline in prediction, evaluation and serving: what the network is given, pixel by pixel."""

import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from qdet.data.augment import AugmentConfig
from qdet.data.image.pipelines import Pipeline
from qdet.inference.description import Description
from qdet.inference.model import Model
from qdet.serving.service import _final_sizes
from qdet.types import BatchDetections
from tests.support.authors_pipelines import READINGS, STD
from tests.support.loaded_models import small_model

PIPELINES = get_args(Pipeline)


class Recorder:
    """Keeps what it is given."""

    device = torch.device("cpu")

    def __call__(self, images, sizes_hw, original_hw) -> BatchDetections:
        self.images, self.sizes_hw = images, sizes_hw
        return BatchDetections(
            torch.zeros(len(images), 1, 4), torch.ones(len(images), 1), torch.zeros(len(images), 1).long()
        )


def recording(pipeline: Pipeline) -> Model:
    multiple = 1 if pipeline == "detr" else 32
    augment = AugmentConfig(pipeline=pipeline, pad_multiple=multiple)
    return dataclasses.replace(small_model(augment=augment), runner=Recorder())


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("size_hw", [(427, 640), (500, 333), (90, 300)])
def test_prediction_prepares_an_image_as_its_authors_do(pipeline, size_hw, tmp_path):
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize(size_hw[::-1], Image.Resampling.BICUBIC)
    file = tmp_path / "image.png"
    picture.save(file)
    wanted = READINGS[pipeline](file, {"width": size_hw[1], "height": size_hw[0]}, [], None)
    model = recording(pipeline)
    model.predict(file)
    seen = model.runner
    assert tuple(seen.sizes_hw[0].tolist()) == wanted.size_hw
    assert seen.images.shape[2:] == wanted.pixels.shape[1:]
    h, w = wanted.size_hw
    literal = wanted.pixels[:, :h, :w] * STD[:, None, None]
    centred = seen.images[0, :, :h, :w].numpy() - np.array([123.675, 116.28, 103.53])[:, None, None]
    assert np.abs(centred - literal).max() < 1.01


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_serving_groups_images_by_the_size_they_will_have(pipeline):
    model = recording(pipeline)
    final_hw = _final_sizes(model)
    for size_hw in ((427, 640), (500, 333), (90, 300)):
        model.predict(np.zeros((*size_hw, 3), np.uint8))
        assert final_hw(size_hw, None) == tuple(model.runner.sizes_hw[0].tolist())
        model.predict(np.zeros((*size_hw, 3), np.uint8), size=333)
        assert final_hw(size_hw, 333) == tuple(model.runner.sizes_hw[0].tolist())


def test_a_model_from_before_pipelines_had_names_is_of_detr():
    model = small_model()
    job = {path: value for path, value in model.description.job.items() if "pipeline" not in path}
    job["data.augment.resize"] = "pillow"
    old = Description(job=job, classes=model.classes, step=1)
    assert (old.augment.pipeline, old.augment.filter) == ("detr", "pillow")
    restored = Description.from_json(
        small_model(augment=AugmentConfig(pipeline="mmdet")).description.to_json(), source="x"
    )
    assert (restored.augment.pipeline, restored.augment.filter) == ("mmdet", "opencv")
