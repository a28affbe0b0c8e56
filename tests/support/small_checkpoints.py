"""Small checkpoints for tests: tensors of several kinds, cut into pieces for any number of ranks."""

import torch

from qdet.checkpoint import Piece, TrainState
from qdet.checkpoint.pieces import cut, even_shares
from qdet.checkpoint.writing import Contents, commit, write_share


def state(step: int = 300) -> TrainState:
    return TrainState(
        step=step, updates=step, ema_updates=step, seed=1, batch_size=16, data_digest="abc",
        categories={"names": ["a"], "ids": [7]},
    )  # fmt: skip


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights with buffers of other types, moments and averages, sizes that nothing divides."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    found = {
        "weights/stem.weight": random(7, 3),
        "weights/stem.bias": random(7),
        "weights/scale": random(),
        "weights/none": torch.empty(0, 4),
        "weights/half": random(5).bfloat16(),
        "weights/count": torch.tensor(41),
        "weights/index": torch.arange(11),
        "weights/mask": torch.tensor([True, False, True]),
    }
    for kind in ("exp_avg", "exp_avg_sq", "average"):
        found |= {
            f"{kind}/stem.weight": random(7, 3),
            f"{kind}/stem.bias": random(7),
            f"{kind}/scale": random(),
        }
    return found


def write(folder, *, world: int = 2, step: int = 300, attempt: str = "aaaa", seed: int = 0, metrics=None):
    """Write a checkpoint as `world` ranks would; returns its tensors."""
    whole = tensors(seed)
    for rank in range(world):
        shares = even_shares(whole, rank=rank, world=world)
        pieces = [Piece(name, share.start, cut(whole[name], share)) for name, share in shares.items()]
        write_share(folder, rank=rank, attempt=attempt, pieces=pieces)
    commit(folder, contents(whole, world=world, step=step, attempt=attempt, metrics=metrics), patience=5.0)
    return whole


def contents(whole, *, world: int, step: int = 300, attempt: str = "aaaa", metrics=None) -> Contents:
    return Contents(
        attempt=attempt, world_size=world, state=state(step), job={"name": "x", "detector": "DETRConfig"},
        shapes={name: list(t.shape) for name, t in whole.items()}, metrics=metrics or {},
    )  # fmt: skip


def assert_same(read: dict[str, torch.Tensor], written: dict[str, torch.Tensor]) -> None:
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].shape == tensor.shape, name
        if tensor.numel():
            assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor.to(read[name].dtype)), name
