"""Backbones of Hugging Face's transformers: ResNet, Swin, ConvNeXt and all others of its AutoBackbone.

transformers is an optional dependency: `pip install "qdet[hf]"`. Building a backbone never uses the network:
its architecture is a type with settings (such as your own `ConvNextConfig(...).to_json_string()`), the folder
of a saved model, or a model of the hub whose settings are already on this machine. Loading weights may
download them.

    B images   H, W map   C channels
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones.backbone import Backbone
from qdet.backbones.download import Source
from qdet.backbones.weights import load_state
from qdet.errors import CheckpointError, ConfigError
from qdet.layers.conv.batch_norm import FrozenBatchNorm
from qdet.storage.parsing import parse_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FLAG = "--detector.backbone"
_HUB = "hf:"
_PROBE = 448  # pixels: a multiple of all usual strides, and of patches of 14


@dataclass(frozen=True, kw_only=True)
class HuggingFaceConfig:
    """A backbone of transformers; the default is its ResNet-50."""

    model: str = "hf:microsoft/resnet-50"
    """`hf:NAME` of the hub whose settings are on this machine, a folder, or a type such as `convnext`."""
    settings: str = "{}"
    """Settings that override its architecture's, as JSON, such as {"drop_path_rate": 0.2}."""
    levels: int = 4
    """Number of maps, from the last stages."""
    norm: Literal["frozen", "eval"] = "frozen"
    """Batch norm with `frozen` weights and statistics, or `eval`: statistics frozen, weights trained."""
    frozen: tuple[str, ...] = ()
    """Regular expressions: parameters with a matching name are not trained."""
    weights: str | None = "model"
    """Starting weights: those of `model`, `hf:NAME` of the hub, a folder, or none."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        if self.levels < 1:
            raise ConfigError(f"{_FLAG}.levels must be at least 1, got {self.levels}")
        try:
            content = parse_json(self.settings)
        except ValueError as error:
            raise ConfigError(f"{_FLAG}.settings is not valid JSON ({error}): {self.settings}") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{_FLAG}.settings must be a JSON object of names, got {self.settings}")

    @property
    def weights_sha256(self) -> None:
        """None: the hub's client verifies its downloads."""

    @property
    def imagenet(self) -> Source | None:
        """None: `weights` names a model."""

    def build(self) -> "HuggingFaceBackbone":
        """Build the backbone with fresh weights, without the network."""
        return HuggingFaceBackbone(self, _architecture(self))

    def demo(self) -> "HuggingFaceConfig":
        """Return the size for a laptop: a ConvNeXt of 0.9 million parameters that learns from scratch."""
        sizes = {"hidden_sizes": [32, 64, 96, 160], "depths": [1, 1, 1, 1], "layer_scale_init_value": 0.1}
        return HuggingFaceConfig(model="convnext", settings=json.dumps(sizes), weights=None)


class HuggingFaceBackbone(Backbone):
    """Images to the maps of an AutoBackbone's last stages.

    Images are padded to whole cells of the coarsest map, since some architectures require it, and maps are
    cropped to the image.
    """

    def __init__(self, config: HuggingFaceConfig, architecture: "PretrainedConfig") -> None:
        super().__init__()
        self.config, self.architecture = config, architecture
        self.body = _make(architecture)
        self.channels = tuple(int(c) for c in self.body.channels)  # type: ignore[union-attr]
        self.strides = _strides(architecture)
        freeze_norms(self.body, train_affine=config.norm == "eval")
        for name, parameter in self.body.named_parameters():
            if any(re.search(pattern, name) for pattern in config.frozen):
                parameter.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the maps, finest first."""
        height, width = images.shape[-2:]
        coarsest = self.strides[-1]
        whole = F.pad(images, (0, -width % coarsest, 0, -height % coarsest))
        maps = self.body(whole).feature_maps
        return [
            level[..., : -(-height // stride), : -(-width // stride)]
            for level, stride in zip(maps, self.strides, strict=True)
        ]

    def load_pretrained(self, weights: str) -> None:
        """Load `model`'s own weights, those of `hf:NAME` (downloaded where they must be) or of a folder."""
        source = self.config.model if weights == "model" else weights
        if not source.startswith(_HUB) and not Path(source).is_dir():
            raise ConfigError(
                f"{_FLAG}.weights {weights}: {source} has no weights; give hf:NAME, a folder, or none"
            )
        state = _read_weights(type(self.body), source, self.architecture)
        load_state(self.body, state, name=source)


def freeze_norms(module: nn.Module, *, train_affine: bool) -> None:
    """Replace every batch norm below `module` by a frozen one of the same name."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            module.set_submodule(
                name, FrozenBatchNorm(child.num_features, train_affine=train_affine, eps=child.eps)
            )
        else:
            freeze_norms(child, train_affine=train_affine)


def _architecture(config: HuggingFaceConfig) -> "PretrainedConfig":
    """Read or create the architecture's settings, with the last stages as output."""
    transformers = _transformers()
    settings, name = parse_json(config.settings), config.model.removeprefix(_HUB)
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if name != config.model or Path(name).exists():
        try:
            made = transformers.AutoConfig.from_pretrained(name, local_files_only=True, **settings)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{_FLAG}.model {config.model}: its settings are not on this machine. Download them once "
                f"(hf download {name} config.json), or give a folder, or a type with {_FLAG}.settings"
            ) from error
    elif name in known:
        made = known[name](**settings)
        made = type(made).from_dict(parse_json(made.to_json_string()))  # lists, where defaults are tuples
    else:
        raise ConfigError(f"{_FLAG}.model {name} is neither hf:NAME, a folder nor a type of transformers")
    if type(made) not in transformers.MODEL_FOR_BACKBONE_MAPPING:
        raise ConfigError(f"{_FLAG}.model {config.model}: there is no AutoBackbone of {made.model_type}")
    if config.levels > len(made.stage_names) - 1:
        raise ConfigError(f"{_FLAG}.levels {config.levels}: there are {', '.join(made.stage_names[1:])}")
    made.out_features = list(made.stage_names[-config.levels :])
    return made


def _make(architecture: "PretrainedConfig") -> nn.Module:
    return _transformers().AutoBackbone.from_config(architecture)


def _strides(architecture: "PretrainedConfig") -> tuple[int, ...]:
    """Infer the strides from the maps of an image on the meta device."""
    with torch.device("meta"):
        maps = _make(architecture)(torch.empty(1, 3, _PROBE, _PROBE)).feature_maps
    strides = tuple(_PROBE // level.shape[-1] for level in maps)
    if sorted(set(strides)) != list(strides):
        raise ConfigError(
            f"{_FLAG}.levels {len(strides)}: the last stages of {architecture.model_type} have strides "
            f"{strides}, which do not grow; take fewer"
        )
    return strides


def _read_weights(body: Any, source: str, architecture: "PretrainedConfig") -> dict[str, Tensor]:
    """Read or download a model's tensors; only the norms of output levels may be missing."""
    name = source.removeprefix(_HUB)
    try:
        loaded, told = body.from_pretrained(name, config=architecture, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{_FLAG}.weights {source} cannot be loaded: {error}. Where this machine has no network, "
            f"download it elsewhere (hf download {name}) and give its folder"
        ) from error
    state = loaded.state_dict()
    kept = {key: t for key, t in state.items() if "num_batches_tracked" not in key}
    lacking = [key for key in told["missing_keys"] if key in kept and "hidden_states_norms" not in key]
    if lacking:
        raise CheckpointError(f"{source} lacks {', '.join(sorted(lacking)[:5])}: it is of another model")
    return kept


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"{_FLAG} of transformers: it is not installed here; run pip install 'qdet[hf]'"
        ) from error
    return transformers
