"""The machine and versions that a measurement belongs to."""

import os
import platform
from typing import Any

import torch

from qdet.training.beginning.conditions import find_processor


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, card, and versions of Python and torch."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": find_processor(),
        "cores": os.cpu_count(),
        "card": card,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
