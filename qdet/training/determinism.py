"""Whether a GPU gives the same bits again when it computes the same thing."""

import os

import torch


def set_deterministic(wanted: bool) -> None:
    """Have PyTorch take deterministic kernels alone, and raise where it has none; before a GPU is used.

    A CPU gives the same bits with and without.
    """
    if wanted:
        # cuBLAS would use several streams' workspaces in any order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)
