"""The same weights in transformers' detectors, an implementation that is neither the authors' nor ours.

Their models are made of settings at full width, filled with random numbers everywhere (also where training
starts from zero), converted as a user's would be, and have to predict the same of two images of different
sizes. No file is read and nothing is downloaded.
"""

import re

import pytest
import torch

from qdet import losses
from qdet.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from qdet.convert.files import Told, read
from qdet.convert.recognize import recognize
from qdet.detectors import Detector
from qdet.layers.pixels import normalize
from qdet.types import Predictions, Proposals, Targets

transformers = pytest.importorskip("transformers")

CLASSES, ENCODER_LAYERS, DECODER_LAYERS = 7, 2, 3
SIZES = torch.tensor([[64, 96], [72, 60]])
LABELS = [
    {"class_labels": torch.tensor(classes), "boxes": torch.tensor(boxes)}
    for classes, boxes in (
        ([1, 5], [[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]]),
        ([0, 6, 6], [[0.5, 0.5, 0.9, 0.8], [0.2, 0.8, 0.2, 0.2], [0.6, 0.3, 0.1, 0.2]]),
    )
]
EXTENT = SIZES.flip(-1).repeat(1, 2).unsqueeze(1)


GAINS = (
    (r"bbox", 1.0),  # boxes at the border would saturate
    (r"input_proj.*weight", 0.2),  # cells would differ too little beside what all have in common
    (r"\.(self|encoder|cross)_attn\..*(q_|k_|query|key).*proj", 2.4),  # attention would mix them all
)


def their_model(name: str, *, stages: tuple[int, ...] = (4,), channels: int = 64, **settings):
    """Make one of their detectors with lively weights, behind a short ResNet that ends with `stages`."""
    backbone = transformers.ResNetConfig(
        embedding_size=channels,
        hidden_sizes=[4 * channels, 8 * channels, 16 * channels, 32 * channels],
        depths=[1, 1, 1, 1],
        layer_type="bottleneck",
        out_features=[f"stage{i}" for i in stages],
    )
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone,
        num_labels=CLASSES,
        encoder_layers=ENCODER_LAYERS,
        decoder_layers=DECODER_LAYERS,
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


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Two normalised images with padding, and which pixels are theirs."""
    height, width = SIZES.amax(0).tolist()
    rows, columns = torch.arange(height), torch.arange(width)
    inside = (rows < SIZES[:, :1]).unsqueeze(2) & (columns < SIZES[:, 1:]).unsqueeze(1)
    coarse = torch.randint(0, 256, (2, 3, height // 12, width // 12))
    pixels = coarse.repeat_interleave(12, dim=2).repeat_interleave(12, dim=3).byte()
    return normalize(pixels, SIZES), inside.long()


def our_model(theirs, **told) -> Detector:
    found = recognize(theirs.state_dict(), Told(heads=8, **told))
    assert len(found.categories) == CLASSES
    ours = found.detector.build(CLASSES).eval()
    ours.load_state_dict(found.weights)
    return ours


def decoded(predictions: tuple[Predictions, ...]) -> list[Predictions]:
    return [p for p in predictions if not isinstance(p, Proposals)]


def assert_same(ours: Predictions, logits: torch.Tensor, boxes: torch.Tensor) -> None:
    assert logits.std(dim=1).min() > 0.01, "queries do not differ: the comparison would mean little"
    torch.testing.assert_close(ours.logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(xyxy_to_cxcywh(ours.boxes_xyxy) / EXTENT, boxes, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["Detr", "ConditionalDetr"])
@torch.no_grad()
def test_every_layer_where_none_changes_what_the_next_starts_from(name):
    """Ended after any of its layers, their decoder predicts what ours predicts of that layer."""
    theirs = their_model(name)
    pixels, inside = images()
    predictions = our_model(theirs)(pixels, SIZES)
    assert len(predictions) == DECODER_LAYERS
    for ours in reversed(predictions):
        out = theirs(pixel_values=pixels, pixel_mask=inside)
        assert_same(ours, out.logits, out.pred_boxes)
        del theirs.model.decoder.layers[-1]


def targets() -> Targets:
    boxes = [cxcywh_to_xyxy(x["boxes"]) * extent for x, extent in zip(LABELS, EXTENT, strict=True)]
    return Targets(torch.cat(boxes), torch.cat([x["class_labels"] for x in LABELS]), (2, 3))


@pytest.mark.parametrize(
    ("name", "loss", "more"),
    [
        ("Detr", losses.DETR, {}),
        ("ConditionalDetr", losses.FOCAL_DETR, {}),
        ("DabDetr", losses.DAB_DETR, {}),
        ("DeformableDetr", losses.FOCAL_DETR, {"stages": (2, 3, 4), "class_cost": 2}),
    ],
)
@torch.no_grad()
def test_the_last_layers_loss(name, loss, more):
    """Matched and summed by their code, each term times the weight that it has in ours."""
    theirs = their_model(name, **more)
    pixels, inside = images()
    predictions = our_model(theirs)(pixels, SIZES)
    ours = loss.build(CLASSES)(predictions, targets(), SIZES, normalizer=5).terms
    terms = theirs(pixel_values=pixels, pixel_mask=inside, labels=LABELS).loss_dict
    last = f"stage{DECODER_LAYERS - 1}/"
    for key, term, weight in (
        ("loss_ce", "classification", loss.classification),
        ("loss_bbox", "l1", loss.l1),
        ("loss_giou", "giou", loss.giou),
    ):
        assert ours[last + term].item() == pytest.approx(weight * terms[key].item(), rel=1e-4), key


FORMS = {
    "dab": ("DabDetr", {}),
    "dab with patterns": ("DabDetr", {"num_patterns": 3, "num_queries": 100}),
    "deformable": ("DeformableDetr", {"stages": (2, 3, 4)}),
    "deformable, refined": ("DeformableDetr", {"stages": (2, 3, 4), "with_box_refine": True}),
    "deformable, two stages": (
        "DeformableDetr",
        {"stages": (2, 3, 4), "with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 50},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_every_layer_where_boxes_are_refined(form):
    name, settings = FORMS[form]
    theirs = their_model(name, auxiliary_loss=True, **settings)
    pixels, inside = images()
    predictions = decoded(our_model(theirs, queries=50)(pixels, SIZES))
    out = theirs(pixel_values=pixels, pixel_mask=inside, labels=LABELS)
    stages = [*out.auxiliary_outputs, {"logits": out.logits, "pred_boxes": out.pred_boxes}]
    assert len(predictions) == len(stages) == DECODER_LAYERS
    for ours, stage in zip(predictions, stages, strict=True):
        assert_same(ours, stage["logits"], stage["pred_boxes"])


EVERY_FORM = {"detr": ("Detr", {}), "conditional": ("ConditionalDetr", {})} | FORMS


@pytest.mark.parametrize("form", EVERY_FORM)
def test_a_saved_folder_becomes_what_its_model_does(form, tmp_path):
    """It has the names of version 4, lacks what is tied, and says how many heads and queries there are."""
    name, settings = EVERY_FORM[form]
    width = {"hidden_size" if name == "DabDetr" else "d_model": 64}
    theirs = their_model(name, channels=8, encoder_ffn_dim=32, decoder_ffn_dim=32, **width, **settings)
    theirs.save_pretrained(tmp_path)
    state, told = read(tmp_path)
    found, wanted = recognize(state, told), recognize(theirs.state_dict(), told)
    assert found.detector == wanted.detector
    assert found.weights.keys() == wanted.weights.keys()
    assert all(t.equal(wanted.weights[key]) for key, t in found.weights.items())
    assert found.detector.queries == settings.get("two_stage_num_proposals", found.detector.queries)
