"""AdaMixer's training step in the order of operations of mmdetection 2, on the weights of our AdaMixer.

What is measured against is not their code but its order: contiguous maps, every batch norm an operation of
its own, four `grid_sample` a stage, attention with the sequence first and an expanded mask; then, stage by
stage and image by image, costs, a copy to the host, scipy, copies back, losses. It reads the same parameters,
so losses and gradients must be ours (`tests/benchmarks/test_gpu.py`); only order and grouping differ.

B images   N queries   G groups   P points   C channels per group   D width   K classes
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.authors_losses import stage_losses
from benchmarks.gpu.scenes import Scene
from qdet.detectors import Detector
from qdet.layers.pixels import MEAN_RGB, STD_RGB


def make_step(detector: Detector, scene: Scene, classes: int, *, bf16: bool) -> Callable[[], Tensor]:
    """Return the step with clipping and AdamW as mmdetection's hook has them, with bf16 by autocast."""
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2.5e-8, weight_decay=1e-4)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(scene.images.device.type, torch.bfloat16, enabled=bf16):
            total = compute_loss(detector, scene, classes)
        total.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return total.detach()

    return step


def compute_loss(detector: Detector, scene: Scene, classes: int) -> Tensor:
    """Return the total loss of a batch."""
    stages, extent = forward(detector, scene.images, scene.sizes_hw)
    objects = scene.targets.per_image()
    total = extent.new_zeros(())
    for logits, boxes in stages:
        total = total + sum(stage_losses(logits.float(), boxes.float(), objects, extent, classes))
    return total


def forward(detector: Any, images: Tensor, sizes_hw: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return logits [B N K] and boxes [B N 4] of every stage, and the extent [B 4] of each image."""
    maps = project(detector.neck, run_resnet(detector.backbone, standardize(images, sizes_hw)))
    decoder, batch = detector.decoder, len(sizes_hw)
    start = decoder.content.weight
    content = F.layer_norm(start[None].expand(batch, -1, -1), [start.shape[1]])
    extent = sizes_hw.flip(-1).repeat(1, 2).float()
    box = decoder.first_boxes_cxcywh[None] * extent[:, None]
    w, h = box[..., 2:3], box[..., 3:]
    xyzr = torch.cat([box[..., :2], torch.log2((w * h) ** 0.5), torch.log2(h / w)], -1)
    stages = []
    for one in decoder.stages:
        content, logits, xyzr = run_stage(one, content, xyzr.detach(), maps, detector.strides)
        stages.append((logits, to_corners(xyzr)))
    return stages, extent


def standardize(images: Tensor, sizes_hw: Tensor) -> Tensor:
    """Return normalised images; theirs come so from the loader."""
    mean, std = (torch.tensor(c, device=images.device).view(1, 3, 1, 1) for c in (MEAN_RGB, STD_RGB))
    x = ((images.float() - mean) / std).contiguous()
    for i, (height, width) in enumerate(sizes_hw.tolist()):
        x[i, :, height:] = 0
        x[i, :, :, width:] = 0
    return x


def run_resnet(backbone: Any, x: Tensor) -> list[Tensor]:
    """Return C2 to C5, with every norm and every addition an operation."""
    x = F.max_pool2d(F.relu(convolve(x, backbone.conv1, backbone.bn1)), 3, 2, 1)
    maps = []
    for level in range(1, 5):
        for block in getattr(backbone, f"layer{level}"):
            short = x if block.downsample is None else convolve(x, *block.downsample)
            y = F.relu(convolve(x, block.conv1, block.bn1), inplace=True)
            if hasattr(block, "conv3"):
                y = F.relu(convolve(y, block.conv2, block.bn2), inplace=True)
                last = convolve(y, block.conv3, block.bn3)
            else:
                last = convolve(y, block.conv2, block.bn2)
            x = F.relu(last + short, inplace=True)
        maps.append(x)
    return maps


def convolve(x: Tensor, conv: Any, norm: Any) -> Tensor:
    """Return a convolution and its batch norm with fixed statistics."""
    x = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
    )


def project(neck: Any, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the maps with the decoder's width."""
    return [neck.norm(F.conv2d(m, c.weight, c.bias)) for c, m in zip(neck.lateral, maps, strict=True)]


def run_stage(
    stage: Any, content: Tensor, xyzr: Tensor, maps: Sequence[Tensor], strides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return content [B N D], logits [B N K] and positions [B N 4] after a decoder stage."""
    with torch.no_grad():
        overlap = (overlap_of_first(to_corners(xyzr)) + 1e-7).log()[:, None]
        embedding = embed(xyzr, content.shape[-1])
    attention = stage.attention
    mask = (overlap * attention.overlap_scale.view(1, -1, 1, 1)).flatten(0, 1)
    content = stage.attention_norm(attend(attention, content + embedding, mask))
    sampled = sample(stage.sampling, content, xyzr, maps, strides)
    content = stage.mixing_norm(mix(stage.mixing, sampled, content))
    content = stage.ffn_norm(content + stage.ffn(content))
    logits = stage.class_head(stage.class_tower(content))
    delta = stage.box_head(stage.box_tower(content))
    z, r = xyzr[..., 2:3], xyzr[..., 3:4]
    moved = [xyzr[..., :2] + delta[..., :2] * 2**z, z + delta[..., 2:3], r + delta[..., 3:4]]
    return content, logits, torch.cat(moved, -1)


def attend(attention: Any, content: Tensor, bias: Tensor) -> Tensor:
    """Return self-attention [B N D] as torch's own module orders it: sequence first, mask [B heads, N, N]."""
    x = content.permute(1, 0, 2)
    queries, batch, width = x.shape
    q, k, v = F.linear(x, attention.qkv.weight, attention.qkv.bias).chunk(3, dim=-1)
    heads, each = attention.heads, width // attention.heads
    q, k, v = (t.contiguous().view(queries, batch * heads, each).transpose(0, 1) for t in (q, k, v))
    weights = torch.baddbmm(bias.to(q.dtype), q * each**-0.5, k.transpose(1, 2)).softmax(-1)
    out = torch.bmm(weights.to(v.dtype), v).transpose(0, 1).contiguous().view(queries, batch, width)
    return (x + attention.out(out)).permute(1, 0, 2)


def sample(
    sampling: Any, content: Tensor, xyzr: Tensor, maps: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    """Return [B N G P C]: every level through `grid_sample`, weighted and added one by one."""
    batch, queries, _ = content.shape
    groups, points = sampling.groups, sampling.points
    offsets = sampling.offsets(content).float().view(batch, queries, groups * points, 3)
    corners = to_corners(xyzr)
    extent = (corners[..., 2:] - corners[..., :2])[:, :, None]
    xy = (xyzr[:, :, None, :2] + offsets[..., :2] * extent).view(batch, queries, groups, points, 2)
    z = xyzr[:, :, None, 2:3] + offsets[..., 2:3]
    levels = z.new_tensor([math.log2(s) for s in strides]).view(1, 1, 1, -1)
    weight = torch.softmax(-((z - levels) ** 2) / 2.0, dim=-1).view(batch, queries, groups, points, -1)
    total = content.new_zeros(batch, queries, groups, points, maps[0].shape[1] // groups)
    for i, (level, stride) in enumerate(zip(maps, strides, strict=True)):
        height, width = level.shape[-2:]
        at = xy / xy.new_tensor([width * stride, height * stride])
        at = at.permute(0, 2, 1, 3, 4).contiguous().view(batch * groups, queries, points, 2) * 2.0 - 1.0
        value = level.reshape(batch * groups, -1, height, width).to(at.dtype)
        out = F.grid_sample(value, at, mode="bilinear", padding_mode="zeros", align_corners=False)
        out = out * weight[..., i].permute(0, 2, 1, 3).reshape(batch * groups, 1, queries, points)
        total = total + out.view(batch, groups, -1, queries, points).permute(0, 3, 1, 4, 2)
    return total


def mix(mixing: Any, sampled: Tensor, query: Tensor) -> Tensor:
    """Return [B N D]: channels, then points, each followed by a norm over both axes."""
    batch, queries, groups, points, channels = sampled.shape
    (r1, c1), (r2, c2) = mixing.shapes
    made = mixing.weights(query).reshape(batch * queries, groups, -1)
    by_channel, by_point = made.split([r1 * c1, r2 * c2], 2)
    out = sampled.reshape(batch * queries, groups, points, channels)
    out = torch.matmul(out, by_channel.reshape(batch * queries, groups, r1, c1))
    out = F.relu(F.layer_norm(out, [out.size(-2), out.size(-1)]), inplace=True)
    out = torch.matmul(by_point.reshape(batch * queries, groups, r2, c2), out)
    out = F.relu(F.layer_norm(out, [out.size(-2), out.size(-1)]), inplace=True)
    return query + mixing.out(out.reshape(batch, queries, -1))


def to_corners(xyzr: Tensor) -> Tensor:
    """Return boxes [B N 4] as x1 y1 x2 y2."""
    z, r = xyzr[..., 2], xyzr[..., 3]
    half = torch.stack([2 ** (z - 0.5 * r), 2 ** (z + 0.5 * r)], -1) * 0.5
    return torch.cat([xyzr[..., :2] - half, xyzr[..., :2] + half], -1)


def overlap_of_first(boxes: Tensor) -> Tensor:
    """Return [B N N]: the intersection of each two boxes as a share of the first."""
    low = torch.max(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.min(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return both / torch.max(area, area.new_tensor([1e-6]))[:, :, None]


def embed(xyzr: Tensor, width: int) -> Tensor:
    """Return the sine embedding [B N D] of positions."""
    each = width // 4
    steps = torch.arange(each, dtype=torch.float32, device=xyzr.device)
    steps = 10000 ** (2 * torch.div(steps, 2, rounding_mode="floor") / each)
    angles = (xyzr * xyzr.new_tensor([1e-3, 1e-3, 1.0, 1.0]))[..., None] / steps
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2).flatten(-2)
