"""DAB-DETR: queries that are anchor boxes, refined by every decoder layer.

Liu et al.: DAB-DETR, Dynamic Anchor Boxes are Better Queries for DETR, ICLR 2022,
https://arxiv.org/abs/2201.12329. Where the paper and the authors' code (IDEA-Research/DAB-DETR) differ, this
is the code.

DN-DETR (Li et al., CVPR 2022, https://arxiv.org/abs/2203.01305) is this detector trained with `denoising`:
its own queries then start from a learned vector for "unknown".

    B images   A anchors   P patterns   N = A P queries   E extra queries   Q = E + N   K classes
    T cells of the feature map   D width
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qdet.backbones import Backbone
from qdet.backbones.unread import freeze_unread
from qdet.data.denoising.config import DenoisingConfig
from qdet.detectors.dab_detr.queries import EPS, Queries
from qdet.detectors.detector import DenoisingDetector, check_at_least
from qdet.detectors.transformer_config import TransformerConfig
from qdet.errors import ConfigError
from qdet.layers.denoising.queries import split_predictions
from qdet.layers.heads import BoxHead, PerceptronHead, sigmoid_class_head
from qdet.layers.mlp import MLP
from qdet.layers.one_to_many.branches import Branching
from qdet.layers.position import embed_reference
from qdet.layers.precision import fp32_island
from qdet.layers.reference_points import boxes_from, to_pixels
from qdet.layers.transformer.conditional import conditional_layers
from qdet.layers.transformer.encoder import Memory, SingleScaleEncoder
from qdet.layers.transformer.layers import run, xavier_matrices
from qdet.types import ExtraQueries, PaddedSizes, Predictions


@dataclass(frozen=True, kw_only=True)
class DABDETRConfig(TransformerConfig):
    """DAB-DETR; the defaults are the paper's ResNet-50, `backbone.dilate_c5` makes it the DC5 one."""

    dropout: float = 0.0
    anchors: int = 300
    """Learned boxes that queries start from."""
    patterns: int = 0
    """Learned contents per anchor, each a query of its own; with 0, one query of zero content."""
    anchor_dims: Literal[2, 4] = 4
    """Coordinates of an anchor: with 2, a centre alone, whose size modulates no attention."""
    modulated: bool = True
    """Attend as wide and high as the anchor is (section 4.4)."""
    updated: bool = True
    """Move anchors from layer to layer; otherwise all layers read the first ones."""
    fixed_centers: bool = False
    """Draw the first layer's box centres uniformly once, instead of learning them."""
    encoder_layers: int = 6
    """Layers of attention between the cells of the feature map."""
    map_temperatures_yx: tuple[float, float] = (20.0, 20.0)
    """Temperatures of the sine embedding of a cell's row and column."""
    query_temperature: float = 10_000.0
    """Temperature of the sine embedding of a query's box; 20 in the paper, this in the authors' code."""
    detections: int = 300
    """Detections per image: the best pairs of query and class."""
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    """Extra queries in training, from noised objects; `DN_DETR_DENOISING` makes this DN-DETR."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be built."""
        super().__post_init__()
        check_at_least(self, 1, "anchors", "detections")
        check_at_least(self, 0, "patterns", "encoder_layers")
        if self.fixed_centers and self.anchor_dims == 2:
            raise ConfigError(
                "--detector.fixed-centers leaves nothing to learn of --detector.anchor-dims 2: give one"
            )
        if min(*self.map_temperatures_yx, self.query_temperature) <= 0:
            raise ConfigError(
                "--detector.map-temperatures-yx and --detector.query-temperature must be above 0, "
                f"got {self.map_temperatures_yx} and {self.query_temperature}"
            )

    @property
    def queries(self) -> int:
        """Queries per image."""
        return self.anchors * max(self.patterns, 1)

    def build(self, classes: int) -> "DABDETR":
        """Build the detector with fresh weights; the caller loads pre-trained ones."""
        return DABDETR(self, freeze_unread(self.backbone.build(), slice(-1, None)), classes)

    def demo(self) -> "DABDETRConfig":
        """Return a detector small enough to learn 128-pixel images on two CPU cores."""
        return replace(
            self,
            **self.demo_sizes(),
            anchors=max(30 // max(self.patterns, 1), 1),
            encoder_layers=2,
            detections=30,
        )


class DABDETR(DenoisingDetector):
    """DETR's encoder with positions scaled by content, and a decoder that refines anchor boxes."""

    def __init__(self, config: DABDETRConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.detections, self.denoising = config.detections, config.denoising
        self.projection = nn.Conv2d(backbone.channels[-1], config.width, kernel_size=1)
        self.encoder = SingleScaleEncoder(
            config.width,
            config.encoder_layers,
            **config.layer_sizes,
            activation=nn.PReLU,
            scale_position=True,
            temperatures_yx=config.map_temperatures_yx,
        )
        self.decoder = Decoder(config, classes)
        self.class_head = sigmoid_class_head(config.width, classes)

    def decode(
        self,
        features: Sequence[Float[Tensor, "B _ _ _"]],
        sizes: PaddedSizes,
        extra: ExtraQueries | None = None,
    ) -> tuple[Predictions, ...]:
        """Predict from the coarsest map."""
        memory = self.encoder(self.projection(features[-1]), sizes, recompute=self.recomputes)
        outputs = self.decoder(memory, extra, recompute=self.recomputes)
        predictions = (
            Predictions(self.class_head(x), to_pixels(boxes, sizes.sizes_hw)) for x, boxes in outputs
        )
        return self.decoder.branching.split(split_predictions(predictions, extra))


class Decoder(nn.Module):
    """Queries whose positions depend on their boxes alone (section 4.2), updated layer by layer.

    A layer reads its boxes detached, but its prediction refines them undetached: gradients reach one layer
    back. The next boxes are computed from a layer's output itself, predictions from the output after the
    norm that all layers share; both as in the authors' code.
    """

    def __init__(self, config: DABDETRConfig, classes: int) -> None:
        super().__init__()
        width = config.width
        self.branching = Branching(config.one_to_many, config.queries)
        self.temperature, self.dims = config.query_temperature, config.anchor_dims
        self.updated = config.updated
        self.layers = conditional_layers(
            config.decoder_layers,
            width,
            **config.layer_sizes,
            activation=nn.PReLU,
        )
        self.norm = nn.LayerNorm(width)
        self.position_head = MLP(self.dims * width // 2, width, width, 2)
        self.place_scale = MLP(width, width, width, 2)
        modulated = config.modulated and self.dims == 4
        self.size_head = PerceptronHead(width, 2, layers=2) if modulated else None
        xavier_matrices(self)
        self.queries = Queries(
            config.anchors,
            width,
            dims=config.anchor_dims,
            patterns=config.patterns,
            fixed_centers=config.fixed_centers,
            classes=None if config.denoising.kind == "none" else classes,
            one_to_many=config.one_to_many,
        )
        self.box_head = BoxHead(width)
        self.box_head.start_at_zero()

    def forward(
        self, memory: Memory, extra: ExtraQueries | None = None, *, recompute: bool = False
    ) -> list[tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q 4"]]]:
        """Return every layer's normalised queries and predicted boxes, cxcywh in normalized coordinates.

        Extra queries come first.
        """
        x, boxes = self.queries(memory.x.shape[0], extra)
        hidden = self.branching.hide(x, None if extra is None else extra.groups)
        outputs = []
        for i, layer in enumerate(self.layers):
            anchors = boxes.detach() if i > 0 and self.updated else boxes
            position, place = self._positions(x, anchors, first=i == 0)
            to_image = (position, place, memory.x, memory.position, memory.mask)
            x = run(layer, x, (position, hidden), to_image, recompute=recompute)
            normed = self.norm(x)
            outputs.append((normed, boxes_from(self.box_head(normed), boxes, eps=EPS)))
            if self.updated and i + 1 < len(self.layers):
                boxes = boxes_from(self.box_head(x), anchors, eps=EPS)[..., : self.dims]
        return outputs

    def _positions(
        self, x: Float[Tensor, "B Q D"], anchors: Float[Tensor, "B Q _"], *, first: bool
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B Q D"]]:
        """Return the queries' positions and spatial queries; the `first` layer does not scale the latter."""
        size = self.dims * x.shape[-1] // 2
        embedded = embed_reference(anchors, size, temperature=self.temperature)
        place = embedded[..., : x.shape[-1]]
        if not first:
            place = place * self.place_scale(x)
        if self.size_head is not None:
            place = modulate(place, self.size_head(x), anchors)
        return self.position_head(embedded), place


@fp32_island("geometry")
def modulate(
    place: Float[Tensor, "B N D"], sizes: Float[Tensor, "B N 2"], boxes: Float[Tensor, "B N 4"]
) -> Float[Tensor, "B N D"]:
    """Scale attention by the width and height of a query's box (section 4.4).

    The y half of the embedded place is multiplied by h_ref / h, the x half by w_ref / w, where (w_ref, h_ref)
    are sigmoids of `sizes`, predicted from the query's content.
    """
    factor_w, factor_h = (sizes.sigmoid() / boxes[..., 2:]).split(1, dim=-1)
    y, x = place.chunk(2, dim=-1)
    return torch.cat((y * factor_h, x * factor_w), dim=-1)
