"""Dynamic DETR: an encoder of dynamic convolutions, and a decoder of dynamic filters over regions.

Dai et al.: Dynamic DETR, End-to-End Object Detection with Dynamic Attention, ICCV 2021,
https://openaccess.thecvf.com/content/ICCV2021/html/Dai_Dynamic_DETR_End-to-End_Object_Detection_With_Dynamic_Attention_ICCV_2021_paper.html

The authors released no code, and the paper leaves much open. The choices made here:

* The encoder's layers are built as the blocks of Dynamic Head (Dai et al., CVPR 2021,
  https://arxiv.org/abs/2106.08322), whose first author is the same and whose code is public: one offset map
  per level for all three convolutions, GroupNorm, the mean of the available maps, no shortcut.
* Scales are weighed per channel by squeeze and excitation, as the paper's name for it says.
* The decoder is Sparse R-CNN's, with its initialisation and box deltas, which the paper uses too. As in
  the paper, attention between queries reads their boxes, one 1 x 1 convolution is generated per query,
  the class head is linear and the box head has one more layer with LayerNorm and ReLU.
* A query generates 32 filters. The 256 of a full 1 x 1 convolution would need 16.8 million parameters per
  layer to generate them, and a projection of 3.2 million to merge 49 cells of 256 features; the paper's
  whole detector, as later papers list it, has 58 million.
* The pyramid has five levels, as later papers' "5-scale" says: P2 to P6, where RoIAlign reads Sparse R-CNN's
  P2 to P5. The encoder's convolutions of P2 are most of the cost, 505 of 660 billion multiply-accumulates of
  an image of 800 x 1333; `pyramid="p3-p7"` has the levels of Dynamic Head. Levels beyond P5 are
  every second cell of the one before.
* Initial boxes are the whole image and learned, as in Sparse R-CNN; there are 300, as in the papers that
  Dynamic DETR is compared with.

    B images   K classes
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.detectors.detector import Detector, check_at_least, check_split, clip_to_images
from qdet.detectors.dynamic_detr.dynamic_relu import DynamicReLU
from qdet.detectors.dynamic_detr.pyramid_conv import NORM_GROUPS, PyramidConv
from qdet.detectors.dynamic_detr.squeeze_excitation import SqueezeExcitation
from qdet.detectors.region_config import RegionConfig
from qdet.errors import ConfigError
from qdet.layers.conv.feature_pyramid import FPN
from qdet.layers.regions.decoder import RegionDecoder, RegionStage
from qdet.layers.regions.roi_align import Pyramid
from qdet.layers.transformer.layers import run
from qdet.types import BatchDetections, PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class DynamicDETRConfig(RegionConfig):
    """Dynamic DETR; the defaults are the paper's ResNet-50 with the choices above."""

    queries: int = 300
    ffn: int = 1024
    pyramid: Literal["p2-p6", "p3-p7"] = "p2-p6"
    """Five levels of the feature pyramid, from stride 4 or from stride 8."""
    encoder_layers: int = 6
    """Layers of convolutions over the feature pyramid."""
    decoder_layers: int = 6
    """Decoder layers, each with its own weights; each predicts."""
    filters: int = 32
    """Filters generated per query: features of each cell after the first convolution."""
    dynamic_layers: Literal[1, 2] = 1
    """Convolutions generated per query: one as in the paper, or a second back to `width` (Sparse R-CNN)."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "decoder_layers", "filters")
        check_at_least(self, 0, "encoder_layers")
        check_split(self, "width", NORM_GROUPS, "the groups of the encoder's normalisation")
        if getattr(self.backbone, "dilate_c5", False):
            raise ConfigError(
                "--detector.backbone.dilate-c5 must be off: every level of the pyramid halves the one before"
            )

    @property
    def maps_read(self) -> slice:
        """The backbone's maps that are read: C2 to C5, or C3 to C5."""
        return slice(None) if self.pyramid == "p2-p6" else slice(1, None)

    def build(self, classes: int) -> "DynamicDETR":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return DynamicDETR(self, freeze_unread(self.backbone.build(), self.maps_read), classes)

    def demo(self) -> "DynamicDETRConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            encoder_layers=1,
            decoder_layers=3,
            filters=16,
        )


class DynamicDETR(Detector):
    """A backbone, an encoder over a pyramid of five levels, and stages that refine learned boxes."""

    def __init__(self, config: DynamicDETRConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections = config.queries
        extra = 1 if config.pyramid == "p2-p6" else 2
        strides = backbone.strides[config.maps_read]
        self.strides = (*strides, *(strides[-1] * 2**i for i in range(1, extra + 1)))
        self.neck = FPN(backbone.channels[config.maps_read], config.width, extra_levels=extra)
        self.encoder = DynamicEncoder(config.width, config.encoder_layers)
        stages = (
            RegionStage(
                config.width,
                classes,
                **config.stage_sizes(),
                filters=config.filters,
                dynamic_layers=config.dynamic_layers,
                class_layers=0,
                box_layers=1,
            )
            for _ in range(config.decoder_layers)
        )
        self.decoder = RegionDecoder(
            stages, config.queries, config.width, start=config.start, encode_boxes=True
        )

    def decode(
        self, features: Sequence[Float[Tensor, "B _ _ _"]], sizes: PaddedSizes
    ) -> tuple[Predictions, ...]:
        """Predict from the backbone's feature maps, finest first."""
        levels = self.encoder(self.neck(features[self.config.maps_read]), recompute=self.recomputes)
        pyramid = Pyramid.of(levels, self.strides, canonical_size=self.config.canonical_size)
        return self.decoder(pyramid, sizes.sizes_hw, recompute=self.recomputes)

    def detect(
        self, prediction: Predictions, sizes_hw: Int[Tensor, "B 2"], original_hw: Real[Tensor, "B 2"]
    ) -> BatchDetections:
        """Take the best pairs of query and class and clip their boxes, as in Sparse R-CNN."""
        return clip_to_images(super().detect(prediction, sizes_hw, original_hw), original_hw)


class DynamicEncoder(nn.ModuleList):
    """A stack of dynamic encoder layers over the pyramid."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__(DynamicEncoderLayer(width) for _ in range(layers))

    def forward(
        self, levels: list[Float[Tensor, "B C _ _"]], *, recompute: bool = False
    ) -> list[Float[Tensor, "B C _ _"]]:
        """Return the levels, finest first, with shapes unchanged."""
        for layer in self:
            levels = run(layer, levels, recompute=recompute)
        return levels


class DynamicEncoderLayer(nn.Module):
    """Dynamic attention over scale, space and representation, in time linear in the cells.

    P_i <- DyReLU(mean_j SE(PyramidConv(P_j; offsets of P_i))),   j = i - 1, i, i + 1
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = PyramidConv(width)
        self.scale = SqueezeExcitation(width)
        self.activation = DynamicReLU(width)

    def forward(self, levels: list[Float[Tensor, "B C _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the levels, finest first, with shapes unchanged."""
        around = zip([None, *levels[:-1]], levels, [*levels[1:], None], strict=True)
        return [self._encode_level(level, finer, coarser) for finer, level, coarser in around]

    def _encode_level(self, level: Tensor, finer: Tensor | None, coarser: Tensor | None) -> Tensor:
        maps = [self.scale(x) for x in self.conv(level, finer, coarser)]
        return self.activation(torch.stack(maps).mean(0))
