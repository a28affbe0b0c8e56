"""Finding the first bad layer: faults put at known places of a small detector are found there."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from qdet.__main__ import main
from qdet.backbones import SwinConfig
from qdet.checkpoint import open_folder
from qdet.config import flatten
from qdet.detectors import AdaMixerConfig
from qdet.job import Job
from qdet.launching.commands.runs.step_replay import replay
from qdet.losses import matched_objects
from qdet.training.nonfinite import record as bad_step
from qdet.training.nonfinite.record import BadStep, Facts
from qdet.training.nonfinite.trace import trace_step
from qdet.types import Batch, Targets


@pytest.fixture(scope="module")
def job():
    detector = replace(
        AdaMixerConfig().demo(), queries=10, stages=2, width=32, feature_width=32, groups=2, heads=2,
        backbone=replace(SwinConfig().demo(), weights=None),
    )  # fmt: skip
    return Job(
        name="tiny", detector=detector, train=replace(Job(name="x").train, precision="fp32", workers=2)
    )


def batch(seed=0, images=2):
    random = torch.Generator().manual_seed(seed)
    boxes = torch.rand(3 * images, 2, generator=random) * 30
    return Batch(
        images=torch.randint(0, 255, (images, 3, 64, 64), dtype=torch.uint8, generator=random),
        sizes_hw=torch.tensor([[64, 64]] * images),
        original_hw=torch.tensor([[64, 64]] * images),
        image_ids=torch.arange(images) + 100 + 10 * seed,
        valid=torch.ones(images, dtype=torch.bool),
        targets=Targets(
            torch.cat([boxes, boxes + 20], dim=1),
            torch.randint(0, 3, (3 * images,), generator=random),
            (3,) * images,
        ),
    )


def traced(job, detector, batches):
    divisor = float(sum(matched_objects(b.targets, 10) for b in batches))
    return trace_step(
        detector,
        job.loss.build(3),
        batches,
        divisors={"normalizer": divisor, "matched": divisor},
        random_seed=1,
        precision="fp32",
    )


def test_a_finite_step_has_no_first_nonfinite_layer_and_plain_autograds_gradients(job):
    detector = job.detector.build(3)
    trace = traced(job, detector, [batch(0), batch(1)])
    assert trace.first_bad is None
    assert len(trace.losses) == 2
    copy = job.detector.build(3)
    copy.load_state_dict(detector.state_dict())
    torch.manual_seed(1)
    copy.train()
    for b in (batch(0), batch(1)):
        losses = job.loss.build(3)(
            copy(b.images, b.sizes_hw), b.targets, b.sizes_hw, normalizer=12.0, matched=12.0
        )
        losses.total.backward()
    for ours, theirs in zip(detector.parameters(), copy.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    norms = [layer for layer in trace.layers if layer.kind == "LayerNorm"]
    assert norms
    assert any(layer.gradient for layer in norms)


class Broken(nn.Module):
    """Passes its input on, with one number changed on the way forth or back."""

    def __init__(self, where, value, row):
        super().__init__()
        self.where, self.value, self.row = where, value, row

    def forward(self, x):
        if self.where == "forward":
            x = x.clone()
            x[self.row].view(-1)[0] = self.value
        else:
            inside = x * 1
            inside.register_hook(self._spoil)
            x = inside * 1
        return x

    def _spoil(self, gradient):
        gradient = gradient.clone()
        gradient[self.row].view(-1)[0] = self.value
        return gradient


def first_norm(detector):
    modules = detector.named_modules()
    return next(n for n, m in modules if isinstance(m, nn.LayerNorm) and n.startswith("decoder.stages.1."))


def broken(job, where, value, row=1):
    """A detector with a fault behind the first LayerNorm of its last stage."""
    detector = job.detector.build(3)
    name = first_norm(detector)
    parent = detector.get_submodule(name.rpartition(".")[0])
    child = name.rpartition(".")[2]
    old = getattr(parent, child)
    setattr(parent, child, nn.Sequential(old, Broken(where, value, row)))
    return detector, f"{name}.1"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_fault_in_the_forward_pass_is_found_in_its_layer_and_image(job, value):
    detector, name = broken(job, "forward", value)
    trace = traced(job, detector, [batch()])
    assert trace.first_bad.what == f"the output of {name} (Broken)"
    assert trace.first_bad.rows == (1,)
    (seen,) = [layer for layer in trace.layers if layer.name == name]
    assert seen.bad > 0
    assert seen.finite_inputs
    assert seen.low <= seen.high


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_fault_in_the_backward_pass_is_found_in_its_layer(job, value):
    detector, name = broken(job, "backward", value, row=0)
    trace = traced(job, detector, [batch()])
    assert trace.first_bad.what == f"the gradient that comes out of {name} (Broken)"
    assert trace.first_bad.rows == (0,)


def test_the_bad_micro_batch_is_named(job):
    bad = batch(1)
    bad = replace(bad, targets=replace(bad.targets, boxes_xyxy=bad.targets.boxes_xyxy * float("nan")))
    trace = traced(job, job.detector.build(3), [batch(0), bad, batch(2)])
    assert trace.micro_batch == 1
    assert trace.first_bad.what == "the loss, whose predictions are all finite"


def test_a_gradient_too_large_for_its_own_norm_is_named(job):
    detector = job.detector.build(3)
    criterion = job.loss.build(3)
    trace = trace_step(
        detector,
        criterion,
        [batch()],
        divisors={"normalizer": 1e-25, "matched": 1e-25},
        random_seed=1,
        precision="fp32",
    )
    assert "the norm of the whole gradient" in trace.first_bad.what


@pytest.fixture
def bad_file(job, tmp_path):
    detector = job.detector.build(3)
    name = first_norm(detector)
    with torch.no_grad():
        detector.get_submodule(name).weight[0] = 3e38
        detector.get_submodule(name).bias[0] = 3e38
    facts = Facts(
        step=122,
        rank=1,
        world_size=2,
        random_seed=5,
        progress=0.5,
        divisors={"normalizer": 6.0, "matched": 6.0},
        classes=3,
        job=flatten(job),
        image_ids=[[100, 101]],
    )
    bad = BadStep(facts=facts, weights=detector.state_dict(), batches=[batch()])
    path = tmp_path / bad_step.file_name(122, 1)
    path.write_bytes(bad_step.to_bytes(bad))
    return bad, path, name


def test_a_nonfinite_step_round_trips_through_its_file(bad_file):
    bad, path, _ = bad_file
    assert path.name == "bad_step_000123_rank_1.safetensors"
    again = bad_step.read(path)
    assert again.facts.image_ids == [[100, 101]]
    assert again.weights.keys() == bad.weights.keys()
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in bad.weights.items())
    (ours,), (theirs,) = again.batches, bad.batches
    assert ours.targets.counts == theirs.targets.counts
    for name in ("images", "sizes_hw", "original_hw", "image_ids", "valid"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype


def test_replay_names_the_layer_that_overflows_from_any_store(bad_file):
    _, path, name = bad_file
    open_folder("memory://store/run").put(path.name, path.read_bytes())
    told = replay(f"memory://store/run/{path.name}")
    assert told == replay(path)
    assert "step 123 of job tiny, by worker 1 of 2" in told
    assert f"the first that is not finite: the output of {name} (LayerNorm)" in told
    assert "images 100, 101" in told


def test_a_file_that_is_no_saved_step_is_refused(tmp_path, bad_file):
    from safetensors.torch import save_file

    from qdet.errors import CheckpointError

    other, torn = tmp_path / "other.safetensors", tmp_path / "torn.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    torn.write_bytes(bad_file[1].read_bytes()[:-100])
    none = [tmp_path / "none", "memory://store/none"]
    refused = {other: "not a bad step", torn: "cannot be read"} | dict.fromkeys(none, "cannot be read")
    for path, said in refused.items():
        with pytest.raises(CheckpointError, match=said):
            bad_step.read(path)


def test_the_command_prints_it(bad_file, capsys):
    _, path, name = bad_file
    main(["replay", str(path)])
    assert f"the output of {name} (LayerNorm)" in capsys.readouterr().out
