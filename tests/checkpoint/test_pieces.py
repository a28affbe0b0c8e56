"""Pieces: shares that partition every tensor, and a cover that is checked element by element."""

import gc
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from qdet.checkpoint import Piece, open_folder
from qdet.checkpoint.pieces import check_cover, even_shares, name_and_start
from qdet.checkpoint.rank_file import read_pieces, write_pieces
from qdet.errors import CheckpointError

SPANS = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda s: range(s[0], s[0] + s[1]))
DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(DTYPES)), max_size=8),
    world=st.integers(1, 9),
)
def test_shares_hold_every_element_once_and_as_many_bytes_each(sizes, world):
    tensors = {f"t{i}": torch.zeros(n, dtype=dtype) for i, (n, dtype) in enumerate(sizes)}
    counts = {name: [0] * t.numel() for name, t in tensors.items()}
    held = []
    for rank in range(world):
        shares = even_shares(tensors, rank=rank, world=world)
        held.append(sum(len(share) * tensors[name].element_size() for name, share in shares.items()))
        for name, share in shares.items():
            for element in share:
                counts[name][element] += 1
    assert all(count == 1 for found in counts.values() for count in found)
    assert max(held) - min(held) <= 16  # an element of eight bytes more at either end


@given(
    numel=st.integers(0, 30),
    spans=st.lists(SPANS, max_size=6),
)
def test_a_cover_is_accepted_if_and_only_if_every_element_is_there_once(numel, spans):
    counts = [0] * 50
    for span in spans:
        for element in span:
            counts[element] += 1
    whole = counts == [1] * numel + [0] * (50 - numel)
    with nullcontext() if whole else pytest.raises(CheckpointError, match="weights/a"):
        check_cover("weights/a", numel, spans, source="here")


def test_missing_and_overlapping_pieces_are_named():
    with pytest.raises(CheckpointError, match="lacks element 3 of the 9 of weights/a"):
        check_cover("weights/a", 9, [range(3), range(4, 9)], source="here")
    with pytest.raises(CheckpointError, match="holds element 2 of weights/a twice"):
        check_cover("weights/a", 9, [range(3), range(2, 9)], source="here")


def test_tensor_names_may_hold_any_character():
    assert name_and_start("weights/a@b.c@17") == ("weights/a@b.c", 17)


def written_pieces(tmp_path) -> tuple[Path, list[Piece]]:
    kinds = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    pieces = [Piece(f"weights/{i}", i, (torch.randn(3 * i) * 9).to(kind)) for i, kind in enumerate(kinds)]
    write_pieces(open_folder(tmp_path), "share.safetensors", pieces)
    return tmp_path / "share.safetensors", pieces


def test_pieces_that_are_read_back_are_those_of_safetensors(tmp_path):
    file, pieces = written_pieces(tmp_path)
    found = dict(read_pieces(bytearray(file.read_bytes())))
    expected = load_file(file)
    assert found.keys() == expected.keys() == {piece.key for piece in pieces}
    for key, values in expected.items():
        assert found[key].dtype == values.dtype
        assert torch.equal(found[key], values)


def test_reading_back_leaks_nothing(tmp_path):
    """safetensors' own reader leaks two integers per tensor, megabytes in a long run."""
    file, _ = written_pieces(tmp_path)
    content = bytearray(file.read_bytes())

    def read_often() -> int:
        for _ in range(200):
            dict(read_pieces(content))
        gc.collect()
        return sys.getallocatedblocks()

    read_often()
    before = read_often()
    assert read_often() - before < 200


@given(data=st.data())
def test_damaged_shares_are_read_or_refused(data, tmp_path_factory):
    file, _ = written_pieces(tmp_path_factory.mktemp("share"))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ValueError):
        dict(read_pieces(content[: data.draw(st.integers(0, len(content)))]))
