"""Shifted-window self-attention: tokens attend within small windows whose grid shifts every other block.

Swin Transformer (Liu et al., ICCV 2021, https://arxiv.org/abs/2103.14030), section 3.2.

    B images   H, W map   C channels   M window side   L = M*M tokens   n windows   h heads
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.compiler import is_exporting

from qdet.layers.eager import cache_tensor

_APART = -100.0  # added to the logits of tokens that only the shift made neighbours; the authors' value


class WindowAttention(nn.Module):
    """Multi-head attention inside M x M windows, with a learned bias per relative position.

        Attention(Q, K, V) = softmax(Q K^T / sqrt(d) + B) V        (equation 4 of the paper)

    With `shift` above 0 the map is rolled by that many pixels first, so that windows straddle the
    borders of the unshifted ones, and pixels of opposite edges that meet in a window are masked.
    A map that is no multiple of the window is padded at the right and bottom with zeros, which do take
    part in attention, as in the authors' detection code.
    """

    def __init__(self, channels: int, heads: int, *, window: int, shift: int = 0) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels must split evenly into heads, got {channels} and {heads}")
        if not 0 <= shift < window:
            raise ValueError(f"shift must be at least 0 and below the window {window}, got {shift}")
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Return every pixel's update from its window."""
        height, width = x.shape[1:3]
        padded = (round_up(height, self.window), round_up(width, self.window))
        pads = is_exporting() or padded != (height, width)  # a graph is for maps of all sizes
        if pads:
            x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        if self.shift:
            x = _roll(x, -self.shift)
        x = self._attend(partition(x, self.window), padded)
        x = merge(x, self.window, padded)
        if self.shift:
            x = _roll(x, self.shift)
        return x.narrow(1, 0, height).narrow(2, 0, width) if pads else x

    def _attend(self, tokens: Float[Tensor, "Bn L C"], map_hw: tuple[int, int]) -> Float[Tensor, "Bn L C"]:
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # [B*n, h, L, C/h] each
        bias = self.position_bias()
        if self.shift:
            apart = window_mask(map_hw, self.window, self.shift, tokens.device)  # [n, L, L]
            bias = bias + _APART * apart[:, None].to(bias.dtype)  # [n, h, L, L]
        attend = _fused_attention if tokens.is_cuda else _plain_attention
        x = attend(query, key, value, bias.to(query.dtype))
        return self.proj(x.transpose(1, 2).flatten(2))

    def position_bias(self) -> Float[Tensor, "1 h L L"]:
        """Look up the bias of every pair of tokens in the learned table."""
        index = relative_positions(self.window, self.relative_position_bias_table.device)
        tokens = self.window**2
        bias = self.relative_position_bias_table[index]  # [L * L, h]
        return bias.transpose(0, 1).reshape(1, self.heads, tokens, tokens)


def _roll(x: Float[Tensor, "B H W C"], by: int) -> Float[Tensor, "B H W C"]:
    """Move a map down and right, what leaves it entering at the other side."""
    if not is_exporting():
        return x.roll((by, by), dims=(1, 2))
    for dim in (1, 2):  # torch.export cannot trace `roll` for sizes that an image decides
        at = -by if by < 0 else x.shape[dim] - by
        x = torch.cat((x.narrow(dim, at, x.shape[dim] - at), x.narrow(dim, 0, at)), dim)
    return x


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend with two products: on a CPU faster than the fused call, which has no fast path with a bias."""
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    logits = logits.unflatten(0, (-1, bias.shape[0])) + bias  # [B, n, h, L, L]
    return logits.softmax(-1).flatten(0, 1).to(value.dtype) @ value


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend without keeping the attention weights for the backward pass."""
    bias = bias.repeat(query.shape[0] // bias.shape[0], 1, 1, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def round_up(length: int, part: int) -> int:
    """Return the length of whole parts; written so that tracing sees a multiple."""
    return (length + part - 1) // part * part


def partition(x: Float[Tensor, "B H W C"], window: int) -> Float[Tensor, "Bn L C"]:
    """Cut a map into windows, image by image in row-major order."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def merge(tokens: Float[Tensor, "Bn L C"], window: int, map_hw: tuple[int, int]) -> Float[Tensor, "B H W C"]:
    """Undo `partition`."""
    height, width = map_hw
    x = tokens.view(-1, height // window, width // window, window, window, tokens.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, tokens.shape[-1])


@cache_tensor
def relative_positions(window: int, device: torch.device) -> Int[Tensor, " LL"]:
    """Row of the bias table of every (query, key) pair: (dy + M - 1) (2 M - 1) + (dx + M - 1)."""
    with torch.inference_mode(False):
        side = torch.arange(window, device=device)
        offset = side[:, None] - side + window - 1  # query minus key, from 0
        rows = offset[:, None, :, None] * (2 * window - 1)  # [y query, -, y key, -]
        return (rows + offset[None, :, None, :]).flatten()


@cache_tensor
def window_mask(
    map_hw: tuple[int, int], window: int, shift: int, device: torch.device
) -> Bool[Tensor, "n L L"]:
    """Mask tokens of a shifted window that come from opposite edges of the map (figure 4 of the paper)."""
    with torch.inference_mode(False):
        height, width = (_bands(length, window, shift, device) for length in map_hw)
        region = (3 * height[:, None] + width)[None, :, :, None].float()  # nine of them
        region = partition(region, window).squeeze(-1)  # [n, L]
        return region[:, :, None] != region[:, None, :]


def _bands(length: int, window: int, shift: int, device: torch.device) -> Int[Tensor, " length"]:
    """Label a rolled axis: 0 whole windows, 1 the rest of the last window, 2 what wrapped around."""
    position = torch.arange(length, device=device)
    return (position >= length - window).long() + (position >= length - shift).long()
