"""A job that must repeat itself has PyTorch take deterministic kernels alone, and no other job has."""

import torch

from tests.support.ranks import losses, tiny_job, train_all


def test_deterministic_kernels_are_on_only_where_the_job_asks(demo_shards, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    few = {"train.steps": 2}
    found = train_all(1, {"strict": tiny_job(demo_shards, **few, **{"train.deterministic": True})}, tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    found |= train_all(1, {"free": tiny_job(demo_shards, **few)}, tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()
    assert losses(found["strict"]) == losses(found["free"])
