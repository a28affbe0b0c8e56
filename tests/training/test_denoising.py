"""Training with extra queries: on any number of workers, resumed, replayed, and where objects are missing."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch.testing import assert_close

from data_prep.coco_to_shards import Conversion, convert
from qdet.config import override
from qdet.data.augment import AugmentConfig
from qdet.data.loading.planned_stream import TrainStream
from qdet.data.loading.stream_config import StreamConfig
from qdet.data.shards.shard_set import ShardSet
from qdet.detectors import denoising_of
from qdet.layers.denoising.apply import denoise_batch
from qdet.losses import DINO_LOSS, counted_objects
from qdet.training.checkpointing.contents import settings
from qdet.training.nonfinite.diagnose import retrace
from qdet.training.nonfinite.record import BadStep, Facts, read, to_bytes
from tests.support.denoising_jobs import BRANCHED, DETECTORS, job_of
from tests.support.ranks import assert_same, checkpoint, losses, train_all

CLASSES = 6
"""Of the demo."""
TRAINED = DETECTORS | BRANCHED


def cases(names: Iterable[str], *quick: str):
    """Cases by name, of which some are in every run of the tests."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def sparse_shards(demo_shards, tmp_path_factory):
    """The demo's shards of which three of four images have no object left."""
    root = tmp_path_factory.mktemp("sparse")
    shutil.copytree(demo_shards / "coco", root / "coco")
    for split in ("train", "val"):
        file = root / "coco" / "annotations" / f"instances_{split}.json"
        found = json.loads(file.read_text())
        found["annotations"] = [a for a in found["annotations"] if a["image_id"] % 4 == 0]
        file.write_text(json.dumps(found))
        conversion = Conversion(coco=root / "coco", split=split, out=root / split, processes=1)
        convert(conversion, console=Console(quiet=True))
    return root


def distance(one, other) -> float:
    """Relative L2 distance of all weights."""
    a, b = one.all("weights"), other.all("weights")
    assert a.keys() == b.keys()
    moved = torch.stack([(a[name].double() - b[name].double()).norm() for name in a]).norm()
    return float(moved / torch.stack([b[name].double().norm() for name in b]).norm())


def trained(shards, name: str, ranks: int) -> dict[str, torch.Tensor]:
    """Weights after 20 steps of a literal loop in float64, which averages what `ranks` ranks compute.

    At a rate of 1e-4 what rounding moves in a Deformable DETR, with branches or without, grows from 1e-14 to
    2e-4; at the recipe's to 1e-11.
    """
    torch.manual_seed(0)
    config = TRAINED[name]
    detector, criterion = config.build(CLASSES).double().train(), DINO_LOSS.build(CLASSES)
    adamw = torch.optim.AdamW(detector.parameters(), lr=2.5e-5)
    how = {"batch_size": 4, "world_size": ranks, "denoising": denoising_of(config)}
    opened, augment = ShardSet.open(shards / "train"), AugmentConfig(sizes=(48, 64), max_size=64)
    streams = [
        TrainStream(opened, augment, StreamConfig(rank=rank, **how)).steps(0, 20) for rank in range(ranks)
    ]
    for shares in zip(*streams, strict=True):
        gradients(detector, criterion, [batch for share in shares for batch in share])
        adamw.step()
    return {name: p.detach().clone() for name, p in detector.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_weights_after_twenty_steps_do_not_depend_on_the_number_of_workers(demo_shards, name):
    """In float64: in float32 rounding moves which tokens a fresh DINO takes first, whatever is trained."""
    alone = trained(demo_shards, name, 1)
    for ranks in (2, 4):
        for key, weight in trained(demo_shards, name, ranks).items():
            assert_close(weight, alone[key], rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["dn_detr", "adamixer", "group_detr"])
def test_weights_of_processes_do_not_depend_on_their_number(demo_shards, tmp_path, name):
    found = {}
    for ranks in (1, 2, 4):
        job = job_of(demo_shards, name, **{"train.workers": ranks, "train.zero": 2})
        found |= train_all(ranks, {f"on_{ranks}": job}, tmp_path)
    alone = checkpoint(tmp_path, "on_1", 20)
    for ranks in (2, 4):
        assert distance(checkpoint(tmp_path, f"on_{ranks}", 20), alone) < 1e-6
        assert losses(found[f"on_{ranks}"]) == pytest.approx(losses(found["on_1"]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["dino", "sparse_rcnn", "h_detr"])
def test_canonical_weights_of_processes_are_bitwise_the_same(demo_shards, tmp_path, name):
    """Also of detectors in which float32's rounding grows from step to step, past any tolerance."""
    canonical = {"train.canonical": 2, "train.zero": 0, "train.accelerator": "cpu"}
    found = {}
    for ranks in (1, 2):
        job = job_of(demo_shards, name, **{"train.workers": ranks}, **canonical)
        found |= train_all(ranks, {f"on_{ranks}": job}, tmp_path)
    assert losses(found["on_2"]) == losses(found["on_1"])
    two, alone = (checkpoint(tmp_path, f"on_{ranks}", 20).all("weights") for ranks in (2, 1))
    assert two.keys() == alone.keys()
    assert all(two[key].equal(weight) for key, weight in alone.items())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_resumed_run_is_bitwise_the_same(demo_shards, tmp_path):
    """It draws the noise of the steps that it makes again; a kill leaves just such a folder behind."""
    changes = {"train.workers": 2, "train.steps": 6, "train.checkpoint_every": 3}
    whole = train_all(2, {"dino": job_of(demo_shards, **changes)}, tmp_path / "whole")["dino"]
    shutil.copytree(tmp_path / "whole" / "dino" / "step_000003", tmp_path / "later" / "dino" / "step_000003")
    resumed = train_all(2, {"dino": job_of(demo_shards, **changes)}, tmp_path / "later")["dino"]
    assert sorted(resumed) == [4, 5, 6]
    assert losses(resumed) == losses(whole)[3:]
    assert_same(checkpoint(tmp_path / "whole", "dino", 6), checkpoint(tmp_path / "later", "dino", 6))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["dino", "adamixer", "sparse_rcnn", "h_detr"])
def test_ranks_without_objects_take_part_on_every_zero_stage(sparse_shards, tmp_path, name):
    """No hang, no missing gradient, the same losses; ranks have one image each, most of them empty.

    A step without an object has a loss of some 0.004, of which float32's rounding is more than 1e-5.
    """
    found = {}
    for ranks in (1, 4):
        jobs = {
            f"zero{zero}_{ranks}": job_of(
                sparse_shards,
                name,
                **{"train.zero": zero, "train.workers": ranks, "train.steps": 5, "train.batch_size": 4},
            )
            for zero in ((0,) if ranks == 1 else (0, 1, 2, 3))
        }
        found |= train_all(ranks, jobs, tmp_path)
    for zero in range(4):
        assert losses(found[f"zero{zero}_4"]) == pytest.approx(losses(found["zero0_1"]), rel=1e-5, abs=1e-6)
    terms = found["zero3_4"][1]
    assert f"train/{'one_to_many' if name in BRANCHED else 'denoising'}/stage0/l1" in terms
    assert terms.get("train/denoising/dropped", 0) == 0


def batches_of(shards, **how):
    augment = AugmentConfig(sizes=(64,), max_size=64)
    stream = TrainStream(ShardSet.open(shards / "train"), augment, StreamConfig(batch_size=4, **how))
    (step,) = stream.steps(0, 1)
    return step


@pytest.mark.parametrize("name", cases(TRAINED, "dino", "dn_detr", "sparse_rcnn"))
def test_a_replayed_step_has_the_same_loss(demo_shards, tmp_path, name):
    """The file of a bad step carries the noise."""
    job = job_of(demo_shards, name)
    (batch,) = batches_of(demo_shards, denoising=denoising_of(job.detector))
    detector, criterion = job.detector.build(CLASSES).train(), job.loss.build(CLASSES)
    count = float(counted_objects(batch.targets, 10, "objects"))
    wanted = float(loss_of(detector, criterion, batch, batch.images, count).detach())
    facts = Facts(
        step=3,
        rank=0,
        world_size=1,
        random_seed=1,
        progress=0.5,
        divisors={"normalizer": count},
        classes=CLASSES,
        job=settings(job),
        image_ids=[batch.image_ids.tolist()],
    )
    bad = BadStep(facts=facts, weights=detector.state_dict(), batches=[batch])
    (tmp_path / "bad.safetensors").write_bytes(to_bytes(bad))
    again = read(tmp_path / "bad.safetensors")
    if name in DETECTORS:
        assert again.batches[0].noise.objects == batch.noise.objects
    trace = retrace(job, again, criterion, torch.device("cpu"))
    assert trace.losses == [pytest.approx(wanted, rel=1e-6)]


@pytest.mark.parametrize("name", cases(TRAINED, "dino", "dn_detr", "adamixer", "h_detr"))
def test_gradients_of_a_batch_are_those_of_its_images_one_by_one(demo_shards, name):
    """The same noise and the divisors of the whole batch; nothing of an image reaches another's queries."""
    config = TRAINED[name]
    detector, noise = config.build(CLASSES).double().train(), denoising_of(config)
    criterion = DINO_LOSS.build(CLASSES)
    together = gradients(detector, criterion, batches_of(demo_shards, denoising=noise))
    shares = batches_of(demo_shards, denoising=noise, accumulation=4)
    apart = gradients(detector, criterion, shares)
    for key, gradient in together.items():
        assert_close(apart[key], gradient, rtol=1e-9, atol=1e-11)


def gradients(detector, criterion, batches) -> dict[str, torch.Tensor]:
    detector.zero_grad()
    count = sum(counted_objects(batch.targets, 10, "objects") for batch in batches)
    for batch in batches:
        targets = replace(batch.targets, boxes_xyxy=batch.targets.boxes_xyxy.double())
        batch = replace(batch, targets=targets)
        loss_of(detector, criterion, batch, batch.images.double() / 255, count).backward()
    return {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}


def loss_of(detector, criterion, batch, images: torch.Tensor, count: float) -> torch.Tensor:
    extra, truth = denoise_batch(detector.denoising, batch, CLASSES)
    stages = detector(images, batch.sizes_hw, *([] if extra is None else [extra]))
    return criterion(stages, batch.targets, batch.sizes_hw, normalizer=count, truth=truth).total


def test_a_job_without_denoising_reads_no_noise(demo_shards):
    plain = override(job_of(demo_shards), {"detector.denoising.kind": "none"})
    with torch.device("meta"):
        names = [name for name, _ in plain.detector.build(CLASSES).named_parameters()]
    assert not [name for name in names if "labels" in name]
    (batch,) = batches_of(demo_shards, denoising=denoising_of(plain.detector))
    assert batch.noise is None
