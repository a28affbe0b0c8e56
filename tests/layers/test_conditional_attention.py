"""Conditional attention against loops over images, heads and queries, as the paper states it."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from qdet.layers.transformer.conditional import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    conditional_layers,
)

B, N, K, D, HEADS = 2, 3, 5, 8, 2
d = D // HEADS


def vectors(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def shares(x: torch.Tensor, head: int) -> torch.Tensor:
    return x[..., head * d : (head + 1) * d]


def mixed(logits: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    weights = (logits / scale).exp()
    return (weights / weights.sum()) @ values


def test_self_attention_adds_position_after_projections_of_its_own():
    layer = ConditionalSelfAttention(D, heads=HEADS).double()
    x, position = vectors(B, N, D), vectors(B, N, D)
    want = torch.empty(B, N, D, dtype=torch.float64)
    for b in range(B):
        q = layer.query_content(x[b]) + layer.query_position(position[b])
        k = layer.key_content(x[b]) + layer.key_position(position[b])
        for head in range(HEADS):
            for n in range(N):
                logits = shares(k, head) @ shares(q[n], head)
                shares(want[b, n], head)[:] = mixed(logits, shares(layer.value(x[b]), head), d**0.5)
    assert_close(layer(x, position), layer.out(want))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("padded", [0, 2])
def test_cross_attention_sums_content_and_place_of_each_head(first, padded):
    layer = ConditionalCrossAttention(D, heads=HEADS, first=first).double()
    x, query_position, place = vectors(B, N, D), vectors(B, N, D), vectors(B, N, D)
    memory, position = vectors(B, K, D), vectors(B, K, D)
    mask = torch.zeros(B, K, dtype=torch.bool)
    mask[1, K - padded :] = True
    want = torch.empty(B, N, D, dtype=torch.float64)
    for b in range(B):
        seen = ~mask[b]
        content_q, content_k = layer.query_content(x[b]), layer.key_content(memory[b])
        place_q, place_k = layer.query_place(place[b]), layer.key_position(position[b])
        if first:
            content_q = content_q + layer.query_position(query_position[b])
            content_k = content_k + place_k
        for head in range(HEADS):
            values = shares(layer.value(memory[b]), head)[seen]
            for n in range(N):
                of_content = shares(content_k, head) @ shares(content_q[n], head)
                of_place = shares(place_k, head) @ shares(place_q[n], head)
                shares(want[b, n], head)[:] = mixed((of_content + of_place)[seen], values, (2 * d) ** 0.5)
    assert_close(layer(x, query_position, place, memory, position, mask), layer.out(want))


def test_only_the_first_layer_of_a_decoder_projects_query_positions():
    layers = conditional_layers(3, D, heads=HEADS, ffn=16, activation=nn.PReLU)
    crosses = [layer.cross_attention.update for layer in layers]
    assert [cross.query_position is not None for cross in crosses] == [True, False, False]
    assert all(isinstance(layer.ffn.update.activation, nn.PReLU) for layer in layers)


def test_attention_weights_are_dropped_in_training_alone():
    attention = ConditionalSelfAttention(D, heads=HEADS, dropout=0.5).double()
    x, position = vectors(B, N, D), vectors(B, N, D)
    assert not attention(x, position).equal(attention(x, position))
    attention.eval()
    assert attention(x, position).equal(attention(x, position))


@pytest.mark.parametrize("kind", [ConditionalSelfAttention, ConditionalCrossAttention])
def test_output_projections_start_without_a_bias(kind):
    assert not kind(D, heads=HEADS).out.bias.any()
    with pytest.raises(ValueError, match="must split evenly into heads"):
        kind(D, heads=3)
