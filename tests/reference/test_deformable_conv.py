"""Deformable convolution against recorded numbers, values and gradients."""

import json

import pytest
import torch
from safetensors.torch import load_file

from qdet.layers.conv.deformable_conv import DeformableConv2d, deform_conv2d


def cases(parity_dir):
    tensors = load_file(parity_dir / "dcn.safetensors")
    for name, said in json.loads((parity_dir / "dcn.json").read_text())["cases"].items():
        yield (
            name,
            said,
            {k.removeprefix(f"{name}/"): t for k, t in tensors.items() if k.startswith(f"{name}/")},
        )


def layer_of(said, held):
    weights = {k.removeprefix("weights/"): t for k, t in held.items() if k.startswith("weights/")}
    layer = DeformableConv2d(
        held["inputs/x"].shape[1],
        weights["weight"].shape[0],
        said["kernel"],
        stride=said["stride"],
        padding=said["pad"],
        dilation=said["dil"],
        groups=said["groups"],
        offset_groups=said["dg"],
        modulated=said["modulated"],
        bias="bias" in weights,
    )
    layer.load_state_dict(weights)
    return layer


@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=["float64", "float32"]
)
def test_values_equal_the_recorded(parity_dir, dtype, allowed):
    for name, said, held in cases(parity_dir):
        layer = layer_of(said, held).to(dtype)
        x = held["inputs/x"].to(dtype)
        offset, mask = layer.offsets(x)
        close = {"atol": allowed, "rtol": 0, "msg": name}
        torch.testing.assert_close(offset.double(), held["outputs/offset"], **close)
        torch.testing.assert_close(layer(x).double(), held["outputs/y"], **close)
        if mask is not None:
            torch.testing.assert_close(mask.double(), held["outputs/mask"], **close)


def test_gradients_equal_the_recorded(parity_dir):
    for name, said, held in cases(parity_dir):
        layer = layer_of(said, held).double()
        inputs = {
            "x": held["inputs/x"].double(),
            "offset": held["outputs/offset"],
            "mask": held.get("outputs/mask"),
        }
        for tensor in inputs.values():
            if tensor is not None:
                tensor.requires_grad_()
        y = deform_conv2d(
            inputs["x"],
            inputs["offset"],
            layer.weight,
            mask=inputs["mask"],
            bias=layer.bias,
            stride=said["stride"],
            padding=said["pad"],
            dilation=said["dil"],
            groups=said["groups"],
        )
        y.square().sum().backward()
        for of, tensor in {**inputs, "weight": layer.weight}.items():
            if tensor is not None:
                want = held[f"grads_of_sum_y_squared/{of}"]
                torch.testing.assert_close(tensor.grad, want, atol=1e-9, rtol=0, msg=f"{name} {of}")
