"""`--train.precision auto`: fp32 where one device lacks bf16; said once, kept in checkpoints."""

import json

import pytest
import torch

from qdet.job import Job
from qdet.small_data import DataFacts, choose_settings
from qdet.training.distributed import World
from qdet.training.engine import precision
from qdet.training.engine.precision import settle_precision
from tests.support.ranks import on_ranks, tiny_job, train_all

CPU, GPU = World(0, 1, torch.device("cpu")), World(0, 1, torch.device("cuda", 0))


def plant_capabilities(monkeypatch, *, gpu: bool = False, cpu: bool = False, onednn: bool = True) -> None:
    """Let the devices of this process have bf16 in hardware, or not."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: gpu and not including_emulation
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)


@pytest.mark.parametrize(
    ("world", "able", "chosen", "why"),
    [
        (GPU, {"gpu": True}, "bf16", "all devices have bf16 in hardware"),
        (GPU, {"cpu": True}, "fp32", "an old card among the devices keeps fp32"),
        (CPU, {"cpu": True}, "bf16", "all devices have bf16 in hardware"),
        (CPU, {"gpu": True}, "fp32", "a CPU without avx512_bf16 among the devices keeps fp32"),
        (
            CPU,
            {"cpu": True, "onednn": False},
            "fp32",
            "a CPU without avx512_bf16 among the devices keeps fp32",
        ),
    ],
    ids=["GPU", "old GPU", "CPU", "old CPU", "no oneDNN"],
)
def test_auto_takes_bf16_where_hardware_has_it(demo_shards, monkeypatch, capsys, world, able, chosen, why):
    plant_capabilities(monkeypatch, **able)
    job = tiny_job(demo_shards, **{"train.precision": "auto"})
    assert settle_precision(job, world).train.precision == chosen
    assert capsys.readouterr().out == f"--train.precision auto: {chosen}; {why}\n"


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("named", ["bf16", "fp32"])
def test_a_named_precision_stays_and_emulation_is_told(demo_shards, monkeypatch, capsys, named, able):
    plant_capabilities(monkeypatch, cpu=able)
    job = tiny_job(demo_shards, **{"train.precision": named})
    assert settle_precision(job, CPU) is job
    said = capsys.readouterr().out
    assert bool(said) == (named == "bf16" and not able)
    if said:
        assert said.startswith(
            "--train.precision bf16: a CPU without avx512_bf16 among the devices emulates it"
        )
        assert said.endswith("--train.precision auto takes fp32 there\n")


def test_what_people_run_on_a_laptop_asks_the_hardware():
    facts = DataFacts(images=200, classes=3, crowd=5, side=40.0, size_hw=(240, 320))
    base = Job(name="x")
    assert base.train.precision == "bf16"  # the recipes are for GPUs
    assert base.demo().train.precision == "auto"
    assert choose_settings(facts, base, workers=2, most=320)["train.precision"].value == "auto"


def _settle(job, place):
    from qdet.training.distributed import join

    world = join("cpu", timeout=60)
    precision.name_emulator = lambda device: ("", "an old card")[world.rank]
    (place / str(world.rank)).write_text(settle_precision(job, world).train.precision)


@pytest.mark.slow
def test_ranks_agree_on_what_all_can_do(demo_shards, tmp_path):
    on_ranks(2, _settle, tiny_job(demo_shards, **{"train.precision": "auto"}), tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["fp32", "fp32"]


@pytest.mark.slow
@pytest.mark.parametrize(("able", "chosen"), [(False, "fp32"), (True, "bf16")])
def test_a_run_keeps_and_resumes_in_what_auto_became(
    demo_shards, tmp_path, monkeypatch, capsys, able, chosen
):
    def train(steps: int) -> str:
        job = tiny_job(demo_shards, **{"train.precision": "auto", "train.steps": steps})
        train_all(1, {"run": job}, tmp_path)
        [kept] = (tmp_path / "run" / f"step_{steps:06}").glob("job.*.json")
        return json.loads(kept.read_text())["train.precision"]

    plant_capabilities(monkeypatch, cpu=able)
    assert train(2) == chosen
    assert train(3) == chosen
    said = capsys.readouterr().out
    assert "resuming from step 2" in said
    assert "--train.precision is" not in said
    plant_capabilities(monkeypatch, cpu=not able)  # the run moves to a machine of another kind
    other = "fp32" if able else "bf16"
    assert train(4) == other
    assert f"--train.precision is {other}, it was {chosen}" in capsys.readouterr().out
