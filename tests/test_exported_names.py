"""The public face: what `from qdet import ...` gives, and that it stays what it is."""

import dataclasses
import subprocess
import sys
import typing
from types import ModuleType

import pytest

import qdet
from qdet.backbones import BackboneConfig
from qdet.detectors import DetectorConfig
from qdet.losses import presets
from qdet.search import Space

PUBLIC = [
    "DAB_DETR_LOSS",
    "DETR_LOSS",
    "DINO_DENOISING",
    "DINO_LOSS",
    "DN_DETR_DENOISING",
    "FOCAL_DETR_LOSS",
    "SPARSE_RCNN_LOSS",
    "SPARSE_RCNN_SOFTMAX_LOSS",
    "AdaMixerConfig",
    "AnchorDETRConfig",
    "AugmentConfig",
    "Callbacks",
    "Choice",
    "ConditionalDETRConfig",
    "ConvSMCAConfig",
    "DABDETRConfig",
    "DETRConfig",
    "DINOConfig",
    "DataConfig",
    "DeformableDETRConfig",
    "DenoisingConfig",
    "Detections",
    "DynamicDETRConfig",
    "Each",
    "EfficientDETRConfig",
    "EvalConfig",
    "HuggingFaceConfig",
    "Job",
    "LogUniform",
    "Model",
    "MultiScaleSMCAConfig",
    "OneToManyConfig",
    "OptimConfig",
    "Published",
    "QdetError",
    "Report",
    "ResNeXtDCNConfig",
    "ResNetConfig",
    "SMCAConfig",
    "SetLossConfig",
    "SparseRCNNConfig",
    "StoreConfig",
    "Sweep",
    "SwinConfig",
    "Table",
    "TrackConfig",
    "TrainConfig",
    "Uniform",
    "Variant",
    "When",
    "evaluate",
    "export",
    "launch",
    "load",
]
"""Every name that users may rely on. Adding one here is a decision; taking one away breaks their files."""


def test_exported_names_are_these():
    assert sorted(qdet.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_an_exported_name_is_a_class_a_function_or_a_loss(name: str):
    value = getattr(qdet, name)
    assert not isinstance(value, ModuleType)
    settings = (qdet.SetLossConfig, qdet.DenoisingConfig)
    assert isinstance(value, settings) or value.__name__ == name
    assert name in dir(qdet)


def test_every_config_that_a_job_can_hold_is_exported():
    needed = {*typing.get_args(DetectorConfig), *typing.get_args(BackboneConfig), *typing.get_args(Space)}
    needed |= {type(getattr(qdet.Job(name="any"), f.name)) for f in dataclasses.fields(qdet.Job)} - {str}
    assert {kind.__name__ for kind in needed} <= set(qdet.__all__)


def test_every_published_loss_is_exported():
    names = {name for name, value in vars(presets).items() if isinstance(value, qdet.SetLossConfig)}
    assert names
    assert names <= set(qdet.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Jobs'"):
        qdet.Jobs  # noqa: B018


@pytest.mark.parametrize(
    "imports",
    [
        "from qdet import launch; import qdet.launching.cli",
        "import qdet.launching.cli; from qdet import launch",
        "from qdet import Job; import qdet.launching; from qdet import launch",
    ],
)
def test_launch_is_the_function_in_every_order_of_imports(imports: str):
    run_python(f"{imports}; import qdet; assert launch is qdet.launch is qdet.launching.cli.launch")


def test_importing_qdet_imports_nothing_heavy():
    run_python(
        "import qdet, sys; assert not {'torch', 'ray', 'mlflow', 'numpy', 'tyro'} & sys.modules.keys()"
    )


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
