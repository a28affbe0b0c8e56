"""Products and rounding of bf16: as a GPU does them, in Triton's interpreter too.

The interpreter multiplies the raw bits of bf16 blocks, and cuts numbers off where a GPU rounds them to bf16
(Triton 3.9). INTERPRETED programs therefore widen first and round by themselves.
"""

from typing import no_type_check

import triton
import triton.language as tl


@no_type_check
@triton.jit
def multiply(a, b, INTERPRETED: tl.constexpr):
    """Multiply matrices, summing in float32 or wider."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@no_type_check
@triton.jit
def round_to(x, kind: tl.constexpr, INTERPRETED: tl.constexpr):
    """Round to the nearest number of a dtype, halves to even."""
    if INTERPRETED and kind == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
        x = tl.where(x == x, even, x)
    return x.to(kind)
