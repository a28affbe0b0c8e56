"""`qdet convert`: from an authors' file to a checkpoint that a job can start from."""

import json
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from qdet.__main__ import main
from qdet.backbones import ResNetConfig
from qdet.checkpoint import Checkpoint, open_folder
from qdet.checkpoint.fit import check_fit, load_weights
from qdet.convert.classes import COCO, IDS
from qdet.convert.files import Metadata, read
from qdet.convert.recognize import recognize
from qdet.data.shards.categories import Categories
from qdet.detectors import AdaMixerConfig, DETRConfig
from qdet.errors import CheckpointError
from qdet.inference.origin import describe
from tests.support.published import as_detrs_authors, small_checkpoint

ONE_OF_EACH = (
    "adamixer_r50_100q",
    "anchor_detr_r50",
    "conditional_detr_r50",
    "dab_detr_r50",
    "dab_detr_r50_3pat",
    "deformable_detr_r50_single_scale",
    "deformable_detr_r50",
    "deformable_detr_r50_refine",
    "deformable_detr_r50_two_stage",
    "detr_r50",
    "mmdet_sparse_rcnn_r50_100q",
    "smca_detr_r50_new_multi_scale",
    "smca_detr_r50_single_scale",
    "sparse_rcnn_r50_100pro",
)


def command(*args) -> None:
    main(["convert", *map(str, args)])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_checkpoint_of_every_detector_and_of_any_size(parity_dir, tmp_path, name):
    config, ours, theirs = small_checkpoint(parity_dir, name)
    args = Namespace(nheads=4, num_queries=9, dilation=False, lr=1e-4)
    torch.save({"model": theirs, "epoch": 49, "args": args}, tmp_path / "them.pth")
    command(tmp_path / "them.pth", "--to", tmp_path / "ours")
    start = saved(tmp_path / "ours")
    assert start.state.categories == {"names": list(COCO.names), "ids": list(COCO.ids)}
    assert start.job["detector"] == type(config).__name__
    weights = start.all("weights")
    load_weights(config.build(len(COCO)), weights, source=tmp_path)
    assert weights.keys() == ours.keys()
    assert all(weights[key].equal(t) for key, t in ours.items() if "class_head" not in key)
    assert recognize(*read(tmp_path / "them.pth")).detector == config


def test_the_80_classes_keep_their_rows(parity_dir):
    metadata = Metadata(heads=4, queries=9)
    for name, head, rows in (
        ("conditional_detr_r50", "class_head", COCO.ids),
        ("detr_r50", "class_head", (*COCO.ids, 91)),  # no-object is kept, as the last row
        ("smca_detr_r50_single_scale", "class_head", COCO.ids),
        ("deformable_detr_r50_refine", "heads.2.class_head", COCO.ids),
        ("deformable_detr_r50_two_stage", "heads.2.class_head", COCO.ids),
        (
            "deformable_detr_r50_two_stage",
            "heads.3.class_head",
            (0, *COCO.ids[1:]),
        ),  # row 0 ranks proposals
        ("sparse_rcnn_r50_100pro", "decoder.stages.0.class_head", range(80)),
    ):
        _, ours, theirs = small_checkpoint(parity_dir, name)
        weights = recognize(theirs, metadata).weights
        for part in (f"{head}.weight", f"{head}.bias"):
            assert weights[part].equal(ours[part][list(rows)]), (name, part)


def test_centres_stay_fixed_where_the_file_says_so(parity_dir, tmp_path):
    _, ours, theirs = small_checkpoint(parity_dir, "dab_detr_r50")
    torch.save({"model": theirs, "args": Namespace(nheads=4, random_refpoints_xy=True)}, tmp_path / "x.pth")
    found = recognize(*read(tmp_path / "x.pth"))
    assert found.detector.fixed_centers
    anchors = torch.cat(
        [found.weights["decoder.queries.centers"], found.weights["decoder.queries.boxes.weight"]], dim=1
    )
    assert anchors.equal(ours["decoder.queries.boxes.weight"])


def test_all_91_rows_can_stay(parity_dir):
    for name, rows in (("detr_r50", 92), ("smca_detr_r50_single_scale", 91), ("dab_detr_r50", 91)):
        _, ours, theirs = small_checkpoint(parity_dir, name)
        found = recognize(theirs, Metadata(heads=4), all_classes=True)
        assert len(found.categories) == IDS
        assert found.weights["class_head.bias"].equal(ours["class_head.bias"][:rows])


def test_the_80_names_are_cocos_classes(coco_root):
    content = json.loads((coco_root / "annotations" / "instances_train2017.json").read_text())
    assert Categories.from_coco(content["categories"], where="coco") == COCO


@pytest.fixture
def detr() -> dict[str, torch.Tensor]:
    """A DETR of five classes in its authors' format, without their file."""
    config = DETRConfig(
        backbone=ResNetConfig(depth=14, width=8), encoder_layers=1, decoder_layers=1, width=32, ffn=8
    )
    return as_detrs_authors(config.build(5).state_dict())


def test_other_classes_are_numbered_or_named_by_the_file(detr, tmp_path, capsys):
    save_file(detr, tmp_path / "model.safetensors")
    command(tmp_path, "--to", tmp_path / "numbered", "--heads", 4)
    assert saved(tmp_path / "numbered").state.categories["names"] == list("01234")
    labels = {"0": "ant", "1": "bee", "2": "cat", "3": "dog", "4": "eel"}
    said = {"encoder_attention_heads": 4, "dilation": True, "id2label": labels}
    (tmp_path / "config.json").write_text(json.dumps(said))
    command(tmp_path / "model.safetensors", "--to", tmp_path / "named")
    assert saved(tmp_path / "named").state.categories["names"] == list(labels.values())
    assert "ResNetConfig(depth=14, width=8, dilate_c5=True)" in capsys.readouterr().out


def saved(folder) -> Checkpoint:
    return Checkpoint(open_folder(folder))


def refused(capsys, *args, code: int = 1) -> str:
    with pytest.raises(SystemExit) as left:
        command(*args)
    assert left.value.code == code
    return capsys.readouterr().err


def test_an_unknown_file_is_told_what_was_looked_for(tmp_path, capsys):
    torch.save({"language.embed": torch.zeros(2)}, tmp_path / "other.pth")
    said = refused(capsys, tmp_path / "other.pth", "--to", tmp_path / "ours")
    assert "such as language.embed" in said
    assert "DAB-DETR (IDEA-Research/DAB-DETR): refpoint_embed.weight" in said
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_embed.weight": None}, "class_head.weight is missing"),
        ({"bbox_embed.layers.0.weight": torch.zeros(3, 32)}, "is (3, 32) in the file and (32, 32) in the"),
        ({"mask_head.weight": torch.zeros(1)}, "not a checkpoint of this detector, it has: mask_head.weight"),
        ({"query_embed.weight": torch.zeros(7, 33)}, "decoder.position.weight is (7, 33) in the file"),
        ({"transformer.decoder.layers.0.linear1.weight": None}, "nothing in it becomes decoder.layers.0.ffn"),
        ({"backbone.0.body.layer4.1.conv1.weight": torch.zeros(1)}, "no ResNet here has (1, 1, 1, 2)"),
    ],
    ids=["missing", "misshapen", "foreign", "inconsistent", "incomplete", "backbone"],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_written(detr, tmp_path, capsys, change, message):
    changed = {name: t for name, t in (detr | change).items() if t is not None}
    torch.save({"model": changed}, tmp_path / "them.pth")
    assert message in refused(capsys, tmp_path / "them.pth", "--to", tmp_path / "ours", "--heads", 4)
    assert not (tmp_path / "ours").exists()


def test_files_that_cannot_be_read_are_named(detr, tmp_path, capsys):
    for source in ("nowhere.pth", "."):
        assert str(tmp_path / source) in refused(capsys, tmp_path / source, "--to", tmp_path / "ours")
    torch.save({"model": detr, "hook": print}, tmp_path / "code.pth")
    assert "wants to run" in refused(capsys, tmp_path / "code.pth", "--to", tmp_path / "ours")
    torch.save({"model": detr}, tmp_path / "them.pth")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mine.txt").touch()
    assert "--to" in refused(capsys, tmp_path / "them.pth", "--to", tmp_path / "ours", code=2)


def test_a_job_of_another_detector_is_refused_and_one_of_other_classes_is_not(detr, tmp_path, capsys):
    torch.save({"model": detr}, tmp_path / "them.pth")
    command(tmp_path / "them.pth", "--to", tmp_path / "ours", "--heads", 4)
    assert "is a model of qdet already" in refused(capsys, tmp_path / "ours", "--to", tmp_path / "more")
    start, found = saved(tmp_path / "ours"), describe(str(tmp_path / "ours"))
    names, same = found.classes.names, found.detector
    assert check_fit(same, names, same, tuple("abcde"), source="ours").classes.unnamed
    assert check_fit(same, names, same, ("a", "b"), source="ours").classes.pairs == []
    with pytest.raises(CheckpointError, match="is a model of DETR, the job trains AdaMixer"):
        check_fit(same, names, AdaMixerConfig(), names, source="ours")
    larger = DETRConfig(backbone=ResNetConfig(depth=14, width=8), heads=4).build(5)
    before = {name: t.clone() for name, t in larger.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"there and .* here"):
        load_weights(larger, start.all("weights"), source=tmp_path)
    assert all(t.equal(before[name]) for name, t in larger.state_dict().items())
