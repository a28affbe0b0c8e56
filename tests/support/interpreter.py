"""Where tests of kernels run: in Triton's interpreter, on any machine that has Triton."""

import pytest

from qdet.kernels.choice import has_triton, interpreting

interpreted = pytest.mark.skipif(
    not has_triton() or not interpreting(),
    reason="Triton is not installed (it is for Linux), or TRITON_INTERPRET is not 1",
)
