"""Deformable convolution: a convolution that learns where to sample at every position.

v1: Dai et al., ICCV 2017, https://arxiv.org/abs/1703.06211. v2 also learns a weight per tap:
Zhu et al., CVPR 2019, https://arxiv.org/abs/1811.11168. Pure PyTorch: `grid_sample` gathers the taps.

    B images   C, D channels in, out   H, W map   h, w output map   K taps   G groups of offsets
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qdet.layers.bilinear import interpolate_at
from qdet.layers.precision import fp32_island


class DeformableConv2d(nn.Module):
    """A square convolution whose taps are moved by offsets that a second convolution predicts.

        y(p) = sum_k w_k * m_k(p) * x(p * stride + p_k * dilation + offset_k(p))

    x is bilinear and zero outside the map; m is 1 in v1 and a sigmoid in v2 (`modulated`). Both start as
    a plain convolution, since `conv_offset` starts at zero. Its channels are, per group of input
    channels and per tap in row-major order, (dy, dx); in v2 a logit per group and tap follows.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        groups: int = 1,
        offset_groups: int = 1,
        modulated: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if channels_in % offset_groups:
            raise ValueError(f"channels must split over offset_groups, got {channels_in}, {offset_groups}")
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.offset_groups, self.modulated = groups, offset_groups, modulated
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        self.conv_offset = nn.Conv2d(
            channels_in,
            offset_groups * kernel**2 * (3 if modulated else 2),
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as a plain convolution."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv_offset.weight)
        if self.conv_offset.bias is not None:
            nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Convolve `x` at taps offset by `conv_offset(x)`."""
        offset, mask = self.offsets(x)
        return deform_conv2d(
            x,
            offset,
            self.weight,
            mask=mask,
            bias=self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    @fp32_island("sampling")
    def offsets(
        self, x: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B G2K h w"], Float[Tensor, "B GK h w"] | None]:
        """Predict every tap's offset in pixels and, in v2, its weight."""
        predicted = self.conv_offset(x)
        if not self.modulated:
            return predicted, None
        offset, logit = predicted.tensor_split([2 * predicted.shape[1] // 3], dim=1)
        return offset, logit.sigmoid()


def deform_conv2d(
    x: Float[Tensor, "B C H W"],
    offset: Float[Tensor, "B G2K h w"],
    weight: Float[Tensor, "D c k k"],
    *,
    mask: Float[Tensor, "B GK h w"] | None = None,
    bias: Float[Tensor, " D"] | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Tensor, "B D h w"]:
    """Convolve `x` at offset taps: gather the taps as K rows per output row, then convolve those K by 1."""
    taps = weight.shape[-1] ** 2
    where = tap_positions(offset, weight.shape[-1], stride=stride, padding=padding, dilation=dilation)
    columns = gather_taps(x, where, mask)
    weight = weight.flatten(2).unsqueeze(-1)  # [D, c, K, 1]
    return F.conv2d(columns.to(x.dtype), weight, bias, stride=(taps, 1), groups=groups)


@fp32_island("sampling")
def tap_positions(
    offset: Float[Tensor, "B G2K h w"], kernel: int, *, stride: int, padding: int, dilation: int
) -> Float[Tensor, "B G h K w 2"]:
    """Return every tap's (x, y) in pixels of the input map, pixel centres at whole numbers."""
    taps = kernel**2
    batch, _, height, width = offset.shape
    offset = offset.view(batch, -1, taps, 2, height, width).permute(0, 1, 4, 2, 5, 3)  # [B, G, h, K, w, yx]
    along = {"device": offset.device, "dtype": offset.dtype}
    rows = torch.arange(height, **along) * stride - padding
    columns = torch.arange(width, **along) * stride - padding
    tap = torch.arange(kernel, **along) * dilation
    y = rows[:, None] + tap.repeat_interleave(kernel)  # [h, K]
    x = tap.repeat(kernel)[:, None] + columns  # [K, w]
    return torch.stack((offset[..., 1] + x, offset[..., 0] + y[..., None]), dim=-1)


@fp32_island("sampling")
def gather_taps(
    x: Float[Tensor, "B C H W"],
    where: Float[Tensor, "B G h K w 2"],
    mask: Float[Tensor, "B GK h w"] | None,
) -> Float[Tensor, "B C hK w"]:
    """Sample each group of channels at its own taps, zero outside the map."""
    batch, channels, height, width = x.shape
    groups, rows, taps, columns = where.shape[1:5]
    size = torch.tensor((width, height), device=x.device, dtype=where.dtype)
    grid = ((2 * where + 1) / size - 1).reshape(batch * groups, rows * taps, columns, 2)
    x = x.reshape(batch * groups, channels // groups, height, width)
    sampled = interpolate_at(x, grid)
    if mask is not None:
        mask = mask.reshape(batch * groups, taps, rows, columns).transpose(1, 2)
        sampled = sampled * mask.reshape(batch * groups, 1, rows * taps, columns)
    return sampled.view(batch, channels, rows * taps, columns)
