"""The same weights in transformers' detectors, an implementation that is neither the authors' nor ours.

Their models are made of settings, filled with random numbers everywhere (also where training starts from
zero), converted as a user's would be, and have to predict the same of two images of different sizes. Slow
tests do it at the papers' size, the others at full width with fewer layers. Nothing is downloaded.
"""

import re
from dataclasses import dataclass

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from qdet import losses
from qdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from qdet.convert.files import Metadata, read
from qdet.convert.recognize import recognize
from qdet.detectors import Detector
from qdet.layers.pixels import normalize
from qdet.types import Predictions, Proposals, Targets

transformers = pytest.importorskip("transformers")

CLASSES = 7


@dataclass(frozen=True)
class Scale:
    """How deep the models are, and two images that are large enough for them."""

    blocks: tuple[int, ...]
    """Bottlenecks of the backbone's stages."""
    encoder_layers: int
    decoder_layers: int
    proposals: int
    """Of the detector of two stages."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths."""

    @property
    def sizes_hw(self) -> torch.Tensor:
        return torch.tensor(self.sizes)

    @property
    def extent(self) -> torch.Tensor:
        return self.sizes_hw.flip(-1).repeat(1, 2).unsqueeze(1)


SHALLOW = Scale((1, 1, 1, 1), 2, 3, proposals=50, sizes=((64, 96), (72, 60)))
PUBLISHED = Scale((3, 4, 6, 3), 6, 6, proposals=300, sizes=((224, 288), (252, 200)))
SCALES = pytest.mark.parametrize(
    "scale",
    [
        pytest.param(SHALLOW, id="shallow"),
        pytest.param(PUBLISHED, id="published", marks=pytest.mark.slow),
    ],
)
LABELS = [
    {"class_labels": torch.tensor(classes), "boxes": torch.tensor(boxes)}
    for classes, boxes in (
        ([1, 5], [[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]]),
        ([0, 6, 6], [[0.5, 0.5, 0.9, 0.8], [0.2, 0.8, 0.2, 0.2], [0.6, 0.3, 0.1, 0.2]]),
    )
]

_ATTENTION = r"\.(self|encoder|cross)_attn\..*"
GAINS = (
    (r"bbox", 0.5),  # boxes at the border would saturate
    (r"input_proj.*weight", 0.2),  # cells would differ too little beside what all have in common
    (_ATTENTION + r"(v_|value|o_|out_|output_).*proj", 0.7),  # so would queries, after six layers
    (_ATTENTION + r"(q_|k_|query|key).*proj", 2.4),  # attention would mix them all
)


def their_model(
    name: str, scale: Scale = SHALLOW, *, stages: tuple[int, ...] = (4,), channels: int = 64, **settings
):
    """Make one of their detectors with lively weights, behind a ResNet that ends with `stages`."""
    if settings.get("two_stage"):
        settings["two_stage_num_proposals"] = scale.proposals
    backbone = transformers.ResNetConfig(
        embedding_size=channels,
        hidden_sizes=[4 * channels, 8 * channels, 16 * channels, 32 * channels],
        depths=list(scale.blocks),
        layer_type="bottleneck",
        out_features=[f"stage{i}" for i in stages],
    )
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone,
        num_labels=CLASSES,
        encoder_layers=scale.encoder_layers,
        decoder_layers=scale.decoder_layers,
        **settings,
    )
    model = getattr(transformers, f"{name}ForObjectDetection")(config).eval()
    fill(model)
    return model


@torch.no_grad()
def fill(model) -> None:
    """Draw all weights so that every part of the model moves its predictions, and none drowns the others."""
    for name, t in model.state_dict().items():
        if re.search(r"embeddings\.|patterns\.|level_embed", name):
            t.normal_()
        elif "running_var" in name or (t.dim() == 1 and name.endswith("weight")):
            t.uniform_(0.7, 1.3)
        elif t.dim() > 1:
            gain = next((gain for pattern, gain in GAINS if re.search(pattern, name)), 1.5)
            t.normal_(std=gain * t[0].numel() ** -0.5)
        else:
            t.normal_(std=0.1)


def images(scale: Scale = SHALLOW) -> tuple[torch.Tensor, torch.Tensor]:
    """Two normalised images with padding, and which pixels are theirs."""
    sizes = scale.sizes_hw
    height, width = sizes.amax(0).tolist()
    rows, columns = torch.arange(height), torch.arange(width)
    inside = (rows < sizes[:, :1]).unsqueeze(2) & (columns < sizes[:, 1:]).unsqueeze(1)
    coarse = torch.randint(0, 256, (2, 3, height // 12, width // 12))
    pixels = coarse.repeat_interleave(12, dim=2).repeat_interleave(12, dim=3).byte()
    return normalize(pixels, sizes), inside.long()


def our_model(theirs, **metadata) -> Detector:
    found = recognize(theirs.state_dict(), Metadata(heads=8, **metadata))
    assert len(found.categories) == CLASSES
    ours = found.detector.build(CLASSES).eval()
    ours.load_state_dict(found.weights)
    return ours


def decoded(predictions: tuple[Predictions, ...]) -> list[Predictions]:
    return [p for p in predictions if not isinstance(p, Proposals)]


def in_their_order(ours: list[Predictions], scale: Scale, boxes: torch.Tensor) -> list[Predictions]:
    """Put queries where their last boxes are: of proposals that score alike rounding decides the order."""
    found = xyxy_to_cxcywh(ours[-1].boxes_xyxy) / scale.extent
    pairs = [linear_sum_assignment(distance) for distance in torch.cdist(boxes, found, p=1)]
    order = torch.stack([torch.from_numpy(columns) for _, columns in pairs]).unsqueeze(-1)
    return [Predictions(*(t.take_along_dim(order, 1) for t in (p.logits, p.boxes_xyxy))) for p in ours]


def assert_same(ours: Predictions, scale: Scale, logits: torch.Tensor, boxes: torch.Tensor) -> None:
    assert logits.std(dim=1).min() > 0.01, "queries do not differ: the comparison would mean little"
    torch.testing.assert_close(ours.logits, logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(xyxy_to_cxcywh(ours.boxes_xyxy) / scale.extent, boxes, atol=1e-4, rtol=0)


@SCALES
@pytest.mark.parametrize("name", ["Detr", "ConditionalDetr"])
@torch.no_grad()
def test_every_layer_where_none_changes_what_the_next_starts_from(name, scale):
    """Ended after any of its layers, their decoder predicts what ours predicts of that layer."""
    theirs = their_model(name, scale)
    pixels, inside = images(scale)
    predictions = our_model(theirs)(pixels, scale.sizes_hw)
    assert len(predictions) == scale.decoder_layers
    for ours in reversed(predictions):
        out = theirs(pixel_values=pixels, pixel_mask=inside)
        assert_same(ours, scale, out.logits, out.pred_boxes)
        del theirs.model.decoder.layers[-1]


def targets() -> Targets:
    boxes = [cxcywh_to_xyxy(x["boxes"]) * extent for x, extent in zip(LABELS, SHALLOW.extent, strict=True)]
    return Targets(torch.cat(boxes), torch.cat([x["class_labels"] for x in LABELS]), (2, 3))


@pytest.mark.parametrize(
    ("name", "loss", "more"),
    [
        ("Detr", losses.DETR_LOSS, {}),
        ("ConditionalDetr", losses.FOCAL_DETR_LOSS, {}),
        ("DabDetr", losses.DAB_DETR_LOSS, {}),
        ("DeformableDetr", losses.FOCAL_DETR_LOSS, {"stages": (2, 3, 4), "class_cost": 2}),
    ],
)
@torch.no_grad()
def test_the_last_layers_loss(name, loss, more):
    """Matched and summed by their code, each term times the weight that it has in ours."""
    theirs = their_model(name, **more)
    pixels, inside = images()
    sizes_hw = SHALLOW.sizes_hw
    predictions = our_model(theirs)(pixels, sizes_hw)
    ours = loss.build(CLASSES)(predictions, targets(), sizes_hw, normalizer=5).terms
    terms = theirs(pixel_values=pixels, pixel_mask=inside, labels=LABELS).loss_dict
    last = f"stage{SHALLOW.decoder_layers - 1}/"
    for key, term, weight in (
        ("loss_ce", "classification", loss.classification),
        ("loss_bbox", "l1", loss.l1),
        ("loss_giou", "giou", loss.giou),
    ):
        assert ours[last + term].item() == pytest.approx(weight * terms[key].item(), rel=1e-4), key


FORMS = {
    "dab": ("DabDetr", {}),
    "dab with patterns": ("DabDetr", {"num_patterns": 3}),
    "deformable": ("DeformableDetr", {"stages": (2, 3, 4)}),
    "deformable, refined": ("DeformableDetr", {"stages": (2, 3, 4), "with_box_refine": True}),
    "deformable, two stages": (
        "DeformableDetr",
        {"stages": (2, 3, 4), "with_box_refine": True, "two_stage": True},
    ),
}


@SCALES
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_every_layer_where_boxes_are_refined(form, scale):
    name, settings = FORMS[form]
    theirs = their_model(name, scale, auxiliary_loss=True, **settings)
    pixels, inside = images(scale)
    predictions = decoded(our_model(theirs, queries=scale.proposals)(pixels, scale.sizes_hw))
    out = theirs(pixel_values=pixels, pixel_mask=inside, labels=LABELS)
    stages = [*out.auxiliary_outputs, {"logits": out.logits, "pred_boxes": out.pred_boxes}]
    assert len(predictions) == len(stages) == scale.decoder_layers
    if settings.get("two_stage"):
        predictions = in_their_order(predictions, scale, out.pred_boxes)
    for ours, stage in zip(predictions, stages, strict=True):
        assert_same(ours, scale, stage["logits"], stage["pred_boxes"])


EVERY_FORM = {"detr": ("Detr", {}), "conditional": ("ConditionalDetr", {})} | FORMS


@pytest.mark.parametrize("form", EVERY_FORM)
def test_a_saved_folder_becomes_what_its_model_does(form, tmp_path):
    """It has the names of version 4, lacks what is tied, and says how many heads and queries there are."""
    name, settings = EVERY_FORM[form]
    width = {"hidden_size" if name == "DabDetr" else "d_model": 64}
    theirs = their_model(name, channels=8, encoder_ffn_dim=32, decoder_ffn_dim=32, **width, **settings)
    theirs.save_pretrained(tmp_path)
    state, metadata = read(tmp_path)
    found, wanted = recognize(state, metadata), recognize(theirs.state_dict(), metadata)
    assert found.detector == wanted.detector
    assert found.weights.keys() == wanted.weights.keys()
    assert all(t.equal(wanted.weights[key]) for key, t in found.weights.items())
    if settings.get("two_stage"):
        assert found.detector.queries == SHALLOW.proposals
