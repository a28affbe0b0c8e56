"""The benchmark of a GPU, at the tiny sizes that it takes on a CPU: it must run before there is a card."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import authors_order, scale
from benchmarks.gpu.bench import Bench, Section
from benchmarks.gpu.breakdown import cover
from benchmarks.gpu.curves import difference
from benchmarks.gpu.report import FILE, TABLES, read_lines
from benchmarks.gpu.scenes import CLASSES, build_detector, make_scene
from qdet.kernels.choice import has_triton
from qdet.losses import SetLossConfig, matched_objects, matching
from tests.support.interpreter import interpreted
from tests.support.recipes import REPO

SMALL = replace(
    scale.TOY, steps={"1 image": (1, 64, 64, 8)}, planned=((64, 64), (64, 96)), stages=1, learned=2
)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(command, "choose_scale", lambda: SMALL)


def test_the_authors_order_computes_our_losses_and_gradients():
    detector = build_detector(replace(scale.TOY, stages=3), 40)
    for parameter in detector.parameters():  # away from zero, so that everything takes part
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    scene = make_scene((2, 96, 128, 40), torch.device("cpu"))
    objects = matched_objects(scene.targets, 40)
    stages = detector(scene.images, scene.sizes_hw)
    ours = SetLossConfig().build(CLASSES)(stages, scene.targets, scene.sizes_hw, normalizer=objects).total
    ours.backward()
    gradients = {n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None}
    detector.zero_grad()
    theirs = authors_order.compute_loss(detector, scene, CLASSES)
    theirs.backward()
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-6)
    for name, parameter in detector.named_parameters():
        if name in gradients and gradients[name].norm() > 1e-9:
            error = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
            assert error < 1e-2, name


@pytest.mark.slow
def test_sections_run_at_tiny_sizes_and_every_line_is_there_at_once(small, tmp_path, capsys):
    wanted = ("ceilings", "right", "kernels", "matching", "curves", "staging")
    command.main(out=tmp_path, only=wanted, minutes=60)
    lines = read_lines(tmp_path / FILE)
    assert {line["section"] for line in lines} == set(wanted)
    assert all(line["of"]["sizes"]["device"] == "cpu" and line["of"]["torch"] for line in lines)
    assert not [line for line in lines if line["name"] == "failed"]
    right = [line["right"] for line in lines if line["section"] == "right" and "right" in line]
    assert right
    assert all(right)
    matched = {line.get("variant") for line in lines if line["section"] == "matching" and "ms" in line}
    assert matched >= {"padded", "by object"} | ({"kernel"} if has_triton() else set())
    curves = [line for line in lines if line["section"] == "curves"]
    assert all(len(line["losses"]) == SMALL.learned for line in curves)
    assert "## ceilings" in (tmp_path / TABLES).read_text()
    assert "bf16 matmul" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_section_runs_at_tiny_sizes(tmp_path):
    """In a process of its own: types are checked at run time here, which torch.compile cannot follow."""
    asked = (sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--minutes", "60")
    subprocess.run(asked, cwd=REPO, env=os.environ | {"TRITON_INTERPRET": "1"}, check=True, timeout=1100)
    lines = read_lines(tmp_path / FILE)
    assert {line["section"] for line in lines} == {section.name for section in command.SPEED}
    assert not [line for line in lines if "failed" in (line["name"], *line)]
    compiled = [
        line for line in lines if line.get("variant") == "qdet, compiled" and line["section"] == "shapes"
    ]
    assert compiled[0]["graphs_compiled"] > 0
    assert compiled[1]["graphs_compiled"] == 0


def test_a_section_is_cut_when_its_time_is_over_and_one_that_fails_ends_no_other(
    small, tmp_path, monkeypatch
):
    def endless(bench: Bench):
        while True:
            yield {"name": "again"}

    def broken(bench: Bench):
        yield {"name": "before"}
        raise RuntimeError("no more memory")

    sections = (
        Section("endless", 1, endless),
        Section("broken", 1, broken),
        Section("last", 1, lambda b: iter([{"name": "x"}])),
    )
    monkeypatch.setattr(command, "SPEED", sections)
    with pytest.raises(SystemExit, match="failed sections: broken"):
        command.main(out=tmp_path, minutes=0.01)
    names = [(line["section"], line["name"]) for line in read_lines(tmp_path / FILE)]
    assert names[-4][1].startswith("cut after")
    assert names[-3:] == [("broken", "before"), ("broken", "failed"), ("last", "x")]


def test_no_speed_of_a_wrong_kernel_is_given(small, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "check_kernels", None)

    def wrong(bench: Bench):
        bench.wrong.add("sampling_3d")
        yield {"name": "sampling_3d", "right": False}

    found = [Section("right", 1, wrong), *(s for s in command.SPEED if s.name == "kernels")]
    monkeypatch.setattr(command, "SPEED", tuple(found))
    with pytest.raises(SystemExit, match="wrong kernels: sampling_3d"):
        command.main(out=tmp_path)
    timed = [line for line in read_lines(tmp_path / FILE) if line["section"] == "kernels"]
    assert timed
    assert not [line for line in timed if "ms" in line and line["name"] == "sampling_3d"]


@interpreted
def test_an_assignment_that_finds_other_pairs_is_not_timed(small, tmp_path, monkeypatch):
    find = matching.assignment
    monkeypatch.setattr(matching, "assignment", lambda *a: (find(*a)[0].flip(2), find(*a)[1]))
    with pytest.raises(SystemExit, match="wrong kernels: assignment"):
        command.main(out=tmp_path, only=("matching",))
    lines = [line for line in read_lines(tmp_path / FILE) if line.get("variant") == "kernel"]
    assert lines
    assert all(line["right"] is False and "ms" not in line for line in lines)


def test_runs_of_other_sizes_or_cards_are_not_compared(small, tmp_path, monkeypatch, capsys):
    command.main(out=tmp_path / "one", only=("matching",))
    command.main(out=tmp_path / "two", only=("matching",), compare=tmp_path / "one" / FILE)
    assert "before / now" in (tmp_path / "two" / TABLES).read_text()
    with pytest.raises(SystemExit, match="seed 0, here 1"):
        command.main(out=tmp_path / "three", only=("matching",), seed=1, compare=tmp_path / "one" / FILE)
    lines = [json.loads(line) for line in (tmp_path / "one" / FILE).read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(line | {"of": line["of"] | {"card": "another"}}) for line in lines))
    with pytest.raises(SystemExit, match="card another, here None"):
        command.main(out=tmp_path / "four", only=("matching",), compare=other)


@pytest.mark.parametrize("content", ["", "no json\n{}\n", "[1]\n", '{"of": 3}\n', "\udcff"])
def test_what_is_no_earlier_run_is_refused_in_words(small, tmp_path, content):
    file = tmp_path / "old.jsonl"
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit, match=r"old\.jsonl"):
        command.main(out=tmp_path / "out", only=("matching",), compare=file)


def test_unknown_sections_and_no_time_are_refused(small, tmp_path):
    with pytest.raises(SystemExit, match="--only speed: there is no such section; there are ceilings"):
        command.main(out=tmp_path, only=("speed",))
    with pytest.raises(SystemExit, match="--minutes must be positive"):
        command.main(out=tmp_path, minutes=0)
    with pytest.raises(SystemExit, match="no shards"):
        command.main(out=tmp_path, part="learn", data=tmp_path / "nothing")


def test_it_imports_nothing_that_a_bare_machine_lacks():
    code = (
        "import sys, benchmarks.gpu.__main__; "
        "print([m for m in ('ray', 'deepspeed', 'webdataset', 'mlflow') if m in sys.modules])"
    )
    asked = subprocess.run((sys.executable, "-c", code), cwd=REPO, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[]"


def test_busy_time_counts_overlapping_kernels_once():
    assert cover([(0, 2), (1, 3), (5, 6), (5, 5.5)]) == 4
    assert cover([]) == 0


def test_curves_are_compared_by_their_moving_averages():
    assert difference([1.0, 2.0], [1.0, 2.0]) == 0
    assert difference([2.0] * 50, [1.0] * 50) == pytest.approx(1)
