"""Numbers recorded from the authors' code: finding the files, reading them, and how close is close enough."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from qdet.backbones import Backbone
from qdet.convert import Table
from qdet.detectors import Detector
from qdet.layers.denoising.apply import Denoised
from qdet.losses import SetLossConfig
from qdet.types import PaddedSizes, Targets

FOLDER = Path(os.environ.get("QDET_PARITY_DIR", Path(__file__).parents[3] / "shared" / "parity"))
DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass
class Recording:
    """One file: `facts` of the .json, `tensors` of the .safetensors, read as `dtype`."""

    facts: dict
    tensors: dict[str, torch.Tensor]
    dtype: torch.dtype

    @property
    def config(self) -> dict:
        return self.facts["config"]

    @property
    def sizes_hw(self) -> torch.Tensor:
        return self["inputs/image_sizes_hw"]

    @property
    def sizes(self) -> PaddedSizes:
        height, width = self.facts["padded_size_hw"]
        return PaddedSizes(self.sizes_hw, (height, width))

    @property
    def classes(self) -> int:
        return self.config.get("num_classes", self.config.get("NUM_CLASSES"))

    @property
    def layers(self) -> int:
        return sum(k.startswith("outputs/layer") and k.endswith("/logits") for k in self.tensors)

    def __getitem__(self, key: str) -> torch.Tensor:
        t = self.tensors[key]
        return t.to(self.dtype) if t.is_floating_point() else t

    def weights(self) -> dict[str, torch.Tensor]:
        return {k.removeprefix("weights/"): t for k, t in self.tensors.items() if k.startswith("weights/")}

    def features(self) -> list[torch.Tensor]:
        return [self[f"inputs/features/level{i}"] for i in range(len(self.config["in_channels"]))]

    def each_layer(self, pattern: str) -> dict[int, torch.Tensor]:
        """The layers that were recorded of `pattern`, such as `intermediates/layer{}/attn_bias`."""
        names = {i: pattern.format(i) for i in range(self.layers)}
        return {i: self[name] for i, name in names.items() if name in self.tensors}

    def close(self, got: torch.Tensor, want: torch.Tensor, *names: str) -> None:
        """Float64 to 1e-6; float32 to four times what the same code lost in float32, on one machine.

        Another sums in another order: one without AVX-512 was 1.3 times that far off at one gradient. So the
        largest number may lose 9 of its 24 bits.
        """
        if self.dtype == torch.float64:
            assert_close(got, want, rtol=1e-6, atol=1e-6, check_dtype=False)
            return
        moved = self.facts["float32_vs_float64_max_abs"]
        atol = 4 * max(moved.get(name, max(moved.values())) for name in names)
        bits = 2**-15 * want.abs().max().item() if want.numel() else 0.0
        assert_close(got, want, rtol=0, atol=max(atol, bits, 1e-6), check_dtype=False)


class Features(Backbone):
    """A backbone's announcement without the backbone: recordings start from feature maps."""

    def __init__(self, channels, strides):
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)

    def forward(self, images):
        raise NotImplementedError("these tests start from feature maps, not from images")


@dataclass(frozen=True)
class Official:
    """How to make one of the authors' detectors here and where its recorded numbers are."""

    build: Callable[[dict], Detector]
    """From a recording's configuration, without weights."""
    table: Table
    """The authors' names to ours."""
    loss: SetLossConfig
    watch: Callable[[Detector, Recording], Callable[[], dict[str, torch.Tensor]]]
    """Hook into a detector before its forward pass; what comes back collects its numbers after it.

    They are named and shaped as recorded, without `intermediates/`. Of the recorded ones, those that nothing
    here computes in that form may be missing where `unwatched` names them.
    """
    denoise: Callable[[Recording, str], Denoised] = lambda r, case: Denoised(None, None)
    """Make what training adds to the batch of a case."""
    unwatched: tuple[str, ...] = ()
    prepare: Callable[[Detector, Recording], None] = lambda detector, r: None
    """Set a detector up as the recorded one was where its configuration does not tell."""


def recorded_of(detectors: set[str]) -> list[Path]:
    """Every recording of one of these detectors."""
    return sorted(
        path
        for path in FOLDER.glob("*.json")
        if path.with_suffix(".safetensors").is_file()
        and json.loads(path.read_text()).get("detector") in detectors
    )


def cases(detectors: set[str]) -> list:
    """Parameters of a fixture: each recording in each precision, or one that skips."""
    found = [(path, dtype) for path in recorded_of(detectors) for dtype in DTYPES]
    return [pytest.param(case, id=f"{case[0].stem}-{case[1]}") for case in found] or [
        pytest.param(None, id="absent")
    ]


def read(case) -> Recording:
    if case is None:
        pytest.skip(f"no recording of this detector in {FOLDER}; set QDET_PARITY_DIR to run this test")
    path, dtype = case
    return Recording(json.loads(path.read_text()), load_file(path.with_suffix(".safetensors")), DTYPES[dtype])


def targets_of(r: Recording, case: str) -> Targets:
    """The objects of one loss case, in pixels."""
    boxes, labels = [], []
    for i, (h, w) in enumerate(r.sizes_hw.tolist()):
        where = f"loss_{case}/targets/image{i}"
        labels.append(r[f"{where}/labels"])
        if f"{where}/boxes_xyxy_abs" in r.tensors:
            boxes.append(r[f"{where}/boxes_xyxy_abs"])
        else:
            x, y, width, height = r[f"{where}/boxes_cxcywh_norm"].unbind(-1)
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            extent = torch.tensor([w, h, w, h], dtype=r.dtype)
            boxes.append(torch.stack(corners, dim=-1) * extent)
    return Targets(torch.cat(boxes), torch.cat(labels), tuple(len(b) for b in boxes))


def hooked(module: nn.Module) -> list:
    """Collect what every later call of `module` returns."""
    seen: list = []
    module.register_forward_hook(lambda _, args, out: seen.append(out))
    return seen
