"""A convolution with its norm folded in.

B images   C channels in   D channels out   H, W map
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.compiler import is_exporting

from qdet.layers.conv.batch_norm import FrozenBatchNorm
from qdet.layers.eager import computes_on_a_cpu


class NormedConv2d(nn.Conv2d):
    """Convolve and normalise; a norm with fixed statistics is folded into the convolution.

        ((w * x) - mean) s + bias = (s w) * x + (bias - mean s)

    This saves one pass over the map forward, one backward, and a copy of it in between. Where the map is
    smaller than the weights, as at the end of a backbone, s multiplies the map instead. Weight and bias of
    a norm may be trained: with V the gradient of s w, that of s is <V, w> of each channel. That is done on
    a CPU only: a GPU would get 14 launches more for each convolution. Other norms run separately.
    """

    def forward(self, x: Float[Tensor, "B C H W"], norm: nn.Module) -> Float[Tensor, "B D h w"]:  # type: ignore[override]
        """Return the normalised map; the norm is an argument so that both keep torchvision's names."""
        if not isinstance(norm, FrozenBatchNorm) or (norm.train_affine and not computes_on_a_cpu(x)):
            return norm(super().forward(x))
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        grid = _Grid(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
        return _ScaledConvolution.apply(x, self.weight, *norm.scale_and_shift(), grid)


class NormedProjection(nn.Sequential):
    """A convolution and its norm under the names 0 and 1, as torchvision has them in a shortcut."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:  # type: ignore[override]
        """Return the normalised map."""
        convolution, norm = self
        return convolution(x, norm)


_convolution_backward = torch.ops.aten.convolution_backward


class _Grid(NamedTuple):
    """Stride, padding, dilation and groups of a convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class _ScaledConvolution(torch.autograd.Function):
    """(s w) * x + shift, in the precision of x.

    For the backward pass it saves w and s, which exist anyway, where autograd would save their product: as
    large as all weights of the backbone, and recomputed in a hundredth of a step.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, grid: _Grid) -> Tensor:
        if _few_cells(x, weight, grid):
            y = F.conv2d(x, weight.to(x.dtype), None, *grid)
            return torch.addcmul(_by_channel(shift, y), y, _by_channel(scale, y), out=y)
        return F.conv2d(x, _scale_weight(weight, scale, x.dtype), shift.to(x.dtype), *grid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, scale, _, ctx.grid = inputs
        ctx.save_for_backward(x, weight, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        of_x = of_weight = of_scale = of_shift = None
        few = _few_cells(x, weight, ctx.grid)
        scaled = grad * _by_channel(scale, grad) if few else grad
        if ctx.needs_input_grad[0]:
            scaled_weight = weight.to(x.dtype) if few else _scale_weight(weight, scale, x.dtype)
            of_x = _gradient_of_x(scaled, x, scaled_weight, ctx.grid)
        if ctx.needs_input_grad[2]:
            of_product = _gradient_of_weight(grad, x, weight, ctx.grid).to(weight.dtype).contiguous()
            of_scale = torch.linalg.vecdot(of_product.flatten(1), weight.flatten(1))
            of_weight = of_product.mul_(scale[:, None, None, None])
        elif ctx.needs_input_grad[1]:
            of_weight = _gradient_of_weight(scaled, x, weight, ctx.grid).to(weight.dtype).contiguous()
            of_weight = of_weight if few else of_weight.mul_(scale[:, None, None, None])
        if ctx.needs_input_grad[3]:
            of_shift = grad.sum((0, 2, 3), dtype=scale.dtype)
        return of_x, of_weight, of_scale, of_shift, None


def _few_cells(x: Tensor, weight: Tensor, grid: _Grid) -> bool:
    """Whether the convolution's map is smaller than its weight, so that s should scale the map.

    An exported graph is for maps of all sizes: there s always scales the weight, once when it is loaded.
    """
    if is_exporting():
        return False
    rows, columns = grid.stride
    return x.shape[0] * (x.shape[2] // rows) * (x.shape[3] // columns) < weight[0].numel()


def _by_channel(factor: Float[Tensor, " D"], like: Tensor) -> Float[Tensor, "D 1 1"]:
    return factor.to(like.dtype)[:, None, None]


def _scale_weight(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale in the weights' own precision, in channels-last layout like the maps."""
    product = weight.clone(memory_format=torch.channels_last).mul_(scale[:, None, None, None])
    return product.to(dtype)


def _gradient_of_x(grad: Tensor, x: Tensor, weight: Tensor, grid: _Grid) -> Tensor:
    if not _pointwise(weight, grid):
        *steps, groups = grid
        wanted = (True, False, False)
        return _convolution_backward(grad, x, weight, None, *steps, False, (0, 0), groups, wanted)[0]
    of_subsampled = (grad.permute(0, 2, 3, 1) @ weight.flatten(1)).permute(0, 3, 1, 2)
    if grid.stride == (1, 1):
        return of_subsampled
    of_x = torch.zeros_like(x)
    _subsample(of_x, grid).copy_(of_subsampled)
    return of_x


def _gradient_of_weight(grad: Tensor, x: Tensor, weight: Tensor, grid: _Grid) -> Tensor:
    if _pointwise(weight, grid):
        return (_cells(grad).mT @ _cells(_subsample(x, grid))).view(weight.shape)
    # Only shape and strides of the weight matter here: those of the product, without recomputing it.
    out, channels, height, width = weight.shape
    shaped = weight.to(x.dtype).view(out, height, width, channels).permute(0, 3, 1, 2)
    *steps, groups = grid
    wanted = (False, True, False)
    return _convolution_backward(grad, x, shaped, None, *steps, False, (0, 0), groups, wanted)[1]


def _pointwise(weight: Tensor, grid: _Grid) -> bool:
    """Whether the convolution is pointwise: gradients are then products, with fewer copies on a CPU."""
    return weight.shape[2:] == (1, 1) and grid.padding == (0, 0) and grid.groups == 1


def _subsample(x: Tensor, grid: _Grid) -> Float[Tensor, "B C h w"]:
    """Return the cells that a pointwise convolution reads."""
    rows, columns = grid.stride
    return x[..., ::rows, ::columns]


def _cells(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "n C"]:
    return x.permute(0, 2, 3, 1).flatten(0, 2)
