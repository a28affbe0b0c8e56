"""Folders that transformers loads: its models and image processors give the boxes that ours give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qdet.backbones import ResNetConfig, SwinConfig
from qdet.convert.files import read
from qdet.convert.recognize import recognize
from qdet.detectors import (
    DN_DETR_DENOISING,
    AdaMixerConfig,
    ConditionalDETRConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DETRConfig,
)
from qdet.errors import ExportError
from qdet.exporting.export import export
from tests.support.loaded_models import AUGMENT, TINY, photo, small_model

transformers = pytest.importorskip("transformers")

SIZES = {
    "backbone": TINY.backbone,
    "width": 32,
    "heads": 4,
    "ffn": 48,
    "encoder_layers": 2,
    "decoder_layers": 3,
}
DETECTORS = {
    "detr": DETRConfig(**SIZES, queries=12),
    "detr, trained norms": DETRConfig(
        **SIZES | {"backbone": replace(TINY.backbone, norm="eval")}, queries=12
    ),
    "conditional": ConditionalDETRConfig(**SIZES, queries=12),
    "dab": DABDETRConfig(**SIZES, anchors=12),
    "dab, patterns": DABDETRConfig(**SIZES, anchors=5, patterns=3),
    "dab, fixed centres": DABDETRConfig(**SIZES, anchors=12, fixed_centers=True),
    "deformable": DeformableDETRConfig(**SIZES, queries=12),
    "deformable, one scale": DeformableDETRConfig(**SIZES, queries=12, levels=1),
    "deformable, refined": DeformableDETRConfig(**SIZES, queries=12, refine=True),
    "deformable, two stages": DeformableDETRConfig(**SIZES, queries=12, refine=True, two_stage=True),
}


@pytest.fixture(scope="module", params=DETECTORS)
def config(request):
    return DETECTORS[request.param]


@pytest.fixture(scope="module")
def exported(config, tmp_path_factory):
    """The model of a detector, and what exporting it gave."""
    model = small_model(config)
    return model, export(model, tmp_path_factory.mktemp("layout") / "folder")


def test_their_model_and_processor_find_what_ours_finds(config, exported):
    """One photo from its pixels to boxes in them, by their code alone and by ours alone."""
    (model, written), folder = exported, exported[1].path
    assert written.difference.within
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    image, queries = photo(), config.queries
    with torch.no_grad():
        out = theirs(**processor(image, return_tensors="pt"))
    more = {} if isinstance(config, DETRConfig) else {"top_k": queries}
    found = processor.post_process_object_detection(out, 0.0, torch.tensor([[300, 200]]), **more)[0]
    ours = model.predict(image, score=0.0)
    order = found["scores"].argsort(descending=True).numpy()
    scores, boxes, labels = (found[key].numpy()[order] for key in ("scores", "boxes", "labels"))
    assert [theirs.config.id2label[label] for label in labels[:3]] == ours.names[:3]
    # Theirs resizes to bytes with Pillow, ours with torch or OpenCV, and pads to whole cells.
    np.testing.assert_allclose(scores[:8], ours.scores[:8], atol=2e-3)
    np.testing.assert_allclose(boxes[:3], ours.boxes_xyxy[:3], atol=1.0)


@pytest.mark.parametrize("changed", [{"pipeline": "mmdet"}, {"pipeline": "detectron2"}, {"resize": "opencv"}])
def test_a_folder_is_refused_for_images_prepared_in_another_way(changed, tmp_path):
    model = small_model(augment=replace(AUGMENT, **changed))
    with pytest.raises(ExportError, match=r"form `image` does it itself"):
        export(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_folder_reads_back_as_the_detector(config, exported):
    model, written = exported
    state, metadata = read(written.path)
    found = recognize(state, metadata)
    assert found.categories.names == model.classes.names
    assert type(found.detector) is type(config)
    ours = found.detector.build(len(found.categories)).eval()
    ours.load_state_dict(found.weights)
    images, sizes_hw = torch.rand(2, 3, 96, 128), torch.tensor([[96, 128], [80, 100]])
    with torch.no_grad():
        wanted, last = model.detector(images, sizes_hw)[-1], ours(images, sizes_hw)[-1]
    torch.testing.assert_close(last.logits, wanted.logits)
    torch.testing.assert_close(last.boxes_xyxy, wanted.boxes_xyxy, atol=1e-3, rtol=0)


def test_others_can_read_the_folder(tmp_path):
    folder = export(small_model(), tmp_path / "folder").path
    names = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1
    plain = tmp_path / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdaMixerConfig().demo(), "no AdaMixer; its layout exists for DETR, ConditionalDETR, DeformableDETR"),
        (replace(TINY, backbone=SwinConfig().demo()), "written for ResNets, not for SwinConfig"),
        (replace(TINY, backbone=ResNetConfig().demo()), "this backbone group norm"),
        (
            replace(TINY, backbone=replace(TINY.backbone, dilate_c5=True)),
            r"cannot dilate its last stage \(DC5\)",
        ),
        (replace(TINY, backbone=replace(TINY.backbone, groups=2)), "not for ResNetConfig with groups"),
        (replace(TINY, pre_norm=True), "no pre-norm layers"),
        (replace(TINY, skip_first=True), "has softmax scores and attention between queries in every layer"),
        (replace(TINY, scores="sigmoid"), "not --detector.scores sigmoid"),
        (DABDETRConfig(**SIZES, updated=False), "boxes as anchors, which it updates"),
        (DABDETRConfig(**SIZES, anchor_dims=2), "--detector.anchor-dims 4"),
        (DABDETRConfig(**SIZES, anchors=12, denoising=DN_DETR_DENOISING), "from a learned vector"),
    ],
)
def test_what_transformers_lacks_is_refused(config, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(small_model(config), tmp_path / "folder")
    assert not list(tmp_path.iterdir())
