"""qdet: train query-based object detectors on a Ray cluster, one Python file per run, and use them.

What a job file and a user of models need is exported here and imported when it is first asked for, so that
`import qdet` costs nothing:

>>> from qdet import AdaMixerConfig, Job, SwinConfig, launch
>>> job = Job(name="mine", detector=AdaMixerConfig(backbone=SwinConfig(size="t")))
>>> launch(job)

>>> import qdet
>>> model = qdet.load("outputs/RUN")
>>> detections = model.predict("street.jpg", score=0.3)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdet.backbones import HuggingFaceConfig, ResNetConfig, ResNeXtDCNConfig, SwinConfig
    from qdet.data.augment import AugmentConfig
    from qdet.data.config import DataConfig
    from qdet.detectors import (
        DINO_DENOISING,
        DN_DETR_DENOISING,
        AdaMixerConfig,
        AnchorDETRConfig,
        ConditionalDETRConfig,
        ConvSMCAConfig,
        DABDETRConfig,
        DeformableDETRConfig,
        DenoisingConfig,
        DETRConfig,
        DINOConfig,
        DynamicDETRConfig,
        EfficientDETRConfig,
        MultiScaleSMCAConfig,
        OneToManyConfig,
        SMCAConfig,
        SparseRCNNConfig,
    )
    from qdet.errors import QdetError
    from qdet.exporting.export import export
    from qdet.inference.detections import Detections
    from qdet.inference.judging.judge import evaluate
    from qdet.inference.judging.report import Report
    from qdet.inference.load import load
    from qdet.inference.model import Model
    from qdet.job import EvalConfig, Job, StoreConfig, Sweep, TrackConfig
    from qdet.launching.cli import launch
    from qdet.losses import (
        DAB_DETR_LOSS,
        DETR_LOSS,
        DINO_LOSS,
        FOCAL_DETR_LOSS,
        SPARSE_RCNN_LOSS,
        SPARSE_RCNN_SOFTMAX_LOSS,
        SetLossConfig,
    )
    from qdet.recipes import Published, Table, Variant
    from qdet.search import Choice, Each, LogUniform, Uniform, When
    from qdet.train_config import OptimConfig, TrainConfig
    from qdet.training.hooks.callbacks import Callbacks

_EXPORTS = {
    "qdet.backbones": ("HuggingFaceConfig", "ResNetConfig", "ResNeXtDCNConfig", "SwinConfig"),
    "qdet.data.augment": ("AugmentConfig",),
    "qdet.data.config": ("DataConfig",),
    "qdet.detectors": (
        "AdaMixerConfig",
        "AnchorDETRConfig",
        "ConditionalDETRConfig",
        "ConvSMCAConfig",
        "DABDETRConfig",
        "DeformableDETRConfig",
        "DenoisingConfig",
        "DETRConfig",
        "DINO_DENOISING",
        "DINOConfig",
        "DN_DETR_DENOISING",
        "DynamicDETRConfig",
        "EfficientDETRConfig",
        "MultiScaleSMCAConfig",
        "OneToManyConfig",
        "SMCAConfig",
        "SparseRCNNConfig",
    ),
    "qdet.errors": ("QdetError",),
    "qdet.inference.detections": ("Detections",),
    "qdet.inference.judging.judge": ("evaluate",),
    "qdet.inference.judging.report": ("Report",),
    "qdet.inference.load": ("load",),
    "qdet.inference.model": ("Model",),
    "qdet.exporting.export": ("export",),
    "qdet.job": ("EvalConfig", "Job", "StoreConfig", "Sweep", "TrackConfig"),
    "qdet.launching.cli": ("launch",),
    "qdet.losses": (
        "DAB_DETR_LOSS",
        "DETR_LOSS",
        "DINO_LOSS",
        "FOCAL_DETR_LOSS",
        "SPARSE_RCNN_LOSS",
        "SPARSE_RCNN_SOFTMAX_LOSS",
        "SetLossConfig",
    ),
    "qdet.recipes": ("Published", "Table", "Variant"),
    "qdet.search": ("Choice", "Each", "LogUniform", "Uniform", "When"),
    "qdet.train_config": ("OptimConfig", "TrainConfig"),
    "qdet.training.hooks.callbacks": ("Callbacks",),
}
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
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


def __getattr__(name: str) -> Any:
    """Import an exported name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("qdet")
    if name not in _HOMES:
        raise AttributeError(f"module 'qdet' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
