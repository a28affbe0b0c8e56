"""`--train.precision auto`: fp32 on CPUs and where one GPU lacks bf16; said once, kept in checkpoints."""

import json

import pytest
import torch

from qdet.training.distributed import World
from qdet.training.engine import precision
from qdet.training.engine.precision import settle_precision
from tests.support.ranks import on_ranks, tiny_job, train_all

CPU, GPU = World(0, 1, torch.device("cpu")), World(0, 1, torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("world", "fast", "chosen"), [(CPU, None, "fp32"), (GPU, True, "bf16"), (GPU, False, "fp32")]
)
def test_auto_takes_bf16_where_a_gpu_has_it(demo_shards, monkeypatch, capsys, world, fast, chosen):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: fast and not including_emulation
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    job = tiny_job(demo_shards, **{"train.precision": "auto"})
    assert settle_precision(job, world).train.precision == chosen
    said = capsys.readouterr().out
    assert said.startswith(f"--train.precision auto: {chosen}; ")
    assert ("an old card" in said) == (fast is False)


@pytest.mark.parametrize("named", ["bf16", "fp32"])
def test_a_named_precision_stays(demo_shards, capsys, named):
    job = tiny_job(demo_shards, **{"train.precision": named})
    assert settle_precision(job, CPU) is job
    assert capsys.readouterr().out == ""


def _settle(job, place):
    from qdet.training.distributed import join

    world = join("cpu", timeout=60)
    precision._name_device_without_bf16 = lambda device: ("", "an old card")[world.rank]
    (place / str(world.rank)).write_text(settle_precision(job, world).train.precision)


@pytest.mark.slow
def test_ranks_agree_on_what_all_can_do(demo_shards, tmp_path):
    on_ranks(2, _settle, tiny_job(demo_shards, **{"train.precision": "auto"}), tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["fp32", "fp32"]


@pytest.mark.slow
def test_a_run_keeps_and_resumes_in_what_auto_became(demo_shards, tmp_path, capsys):
    job = tiny_job(demo_shards, **{"train.precision": "auto", "train.steps": 2})
    train_all(1, {"run": job}, tmp_path)
    [kept] = (tmp_path / "run" / "step_000002").glob("job.*.json")
    assert json.loads(kept.read_text())["train.precision"] == "fp32"
    train_all(1, {"run": tiny_job(demo_shards, **{"train.precision": "auto", "train.steps": 3})}, tmp_path)
    said = capsys.readouterr().out
    assert "resuming from step 2" in said
    assert "--train.precision is" not in said
