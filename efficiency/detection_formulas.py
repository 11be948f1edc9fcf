"""Formulas of torchvision's operations for detection: deformable convolution, regions of interest, suppression."""

from __future__ import annotations

from math import prod

import torch

from naslab.efficiency.work import Call, Formula, Work

BILINEAR = 8
"""FLOPs of a value between four neighbours: two for each."""
OVERLAP = 13
"""FLOPs of the overlap of two boxes: corners 4, sides 4, areas 2, sum, quotient, comparison."""


def _deformed(times: int = 1) -> Formula:
    """Each result: the products of a convolution, over values that are sampled between pixels."""

    def formula(call: Call) -> Work:
        result = call.arguments["grad"] if times > 1 else call.outputs[0]
        weight, channels = call.shape("weight"), call.shape("input")[1]
        sampled = result.shape[0] * channels * prod(weight[2:]) * prod(result.shape[2:])
        return Work(times * 2 * result.numel() * prod(weight[1:]), times * BILINEAR * sampled)

    return formula


def _regions(call: Call) -> Work:
    """Each result is a mean over points: as many as asked for, or one for each pixel that its bin of the region has."""
    result = call.arguments.get("grad", call.outputs[0])
    ratio, boxes = call.arguments["sampling_ratio"], call.arguments["rois"]
    bins = (call.arguments["pooled_height"], call.arguments["pooled_width"])
    if ratio > 0 or boxes.is_meta or not len(boxes):
        return Work(pointwise=BILINEAR * max(ratio, 1) ** 2 * result.numel())
    sides = call.arguments["spatial_scale"] * (boxes[:, [4, 3]] - boxes[:, [2, 1]])
    points = (sides / torch.tensor(bins, dtype=sides.dtype, device=sides.device)).ceil().clamp(min=1).prod(1).sum()
    return Work(pointwise=round(BILINEAR * float(points) * result.numel() / len(boxes)))


def _suppressed(call: Call) -> Work:
    """Each pair of boxes once, were none suppressed before."""
    boxes = call.shape("dets")[0]
    return Work(pointwise=OVERLAP * boxes * (boxes - 1) // 2)


DETECTION: dict[str, Formula] = {
    "torchvision::deform_conv2d": _deformed(),
    "torchvision::_deform_conv2d_backward": _deformed(times=2),
    "torchvision::roi_align": _regions,
    "torchvision::_roi_align_backward": _regions,
    "torchvision::nms": _suppressed,
}
