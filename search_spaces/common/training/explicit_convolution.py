"""Gradients of a convolution's weights by one matrix product, for small maps in bfloat16 on a CPU.

PyTorch's own walk the rows of the output. On a CPU with matrix units they take several times as long as the product
where a row has four places or fewer: in the last stages of a network for small images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from naslab.kernels._check import transformed

LARGEST = 16
"""Places of the output map, up to which the matrix of patches is worth its copies."""
LEAST_CHANNELS = 32
"""Of the input: below, the matrix is too narrow."""


def suits_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether a call of `torch.nn.functional.conv2d` is one for `explicit_convolution`: small, autocast to bfloat16."""
    strides, paddings = _pair(stride), _pair(padding)
    if not input.ndim == weight.ndim == 4 or input.device.type != "cpu" or groups != 1:
        return False
    if strides is None or paddings is None:
        return False
    sizes = zip(input.shape[2:], weight.shape[2:], strides, paddings, strict=True)
    places = [(side + 2 * around - kernel) // max(step, 1) + 1 for side, kernel, step, around in sizes]
    return (
        torch.is_grad_enabled()
        and not transformed()
        and weight.requires_grad
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and all(value is None or value.dtype in (torch.float32, torch.bfloat16) for value in (input, weight, bias))
        and _pair(dilation) == (1, 1)
        and input.shape[1] >= LEAST_CHANNELS
        and 0 < places[0] * places[1] <= LARGEST
    )


def explicit_convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *_: Any, **__: Any
) -> Tensor:
    """What `torch.nn.functional.conv2d` says under autocast, (N, O, H', W') in bfloat16; its backward: see the module.

    Args:
        input: (N, C, H, W).
        weight: (O, C, kh, kw).
        bias: (O).
        stride, padding: numbers or pairs; dilation is 1, and so is the number of groups.
    """
    reduced = (None if value is None else value.to(torch.bfloat16) for value in (input, weight, bias))
    return _Convolution.apply(*reduced, _pair(stride), _pair(padding))  # type: ignore[no-any-return]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias, ctx.stride, ctx.padding = bias is not None, stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], False, ctx.needs_input_grad[2]]
        sizes = [weight.shape[0]] if ctx.bias else None
        dx, _, db = torch.ops.aten.convolution_backward(
            g, x, weight, sizes, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, wanted
        )
        return dx, weight_gradient(g, x, weight.shape, ctx.stride, ctx.padding), db, None, None


def weight_gradient(
    g: Tensor, x: Tensor, shape: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Gradient (O, C, kh, kw) = `shape` of a convolution's weights.

    Args:
        g: (N, O, H', W'), gradient of the output.
        x: (N, C, H, W), the input.
    """
    out, channels, *kernel = shape
    height, width = padding
    around = F.pad(x.permute(0, 2, 3, 1), (0, 0, width, width, height, height)).contiguous()
    n, down, across, _ = around.stride()
    patches = around.as_strided(
        (len(x), *g.shape[2:], *kernel, channels), (n, down * stride[0], across * stride[1], down, across, 1)
    )
    places = g.shape[0] * g.shape[2] * g.shape[3]
    columns = patches.reshape(places, kernel[0] * kernel[1] * channels)
    product = g.permute(1, 0, 2, 3).reshape(out, places) @ columns
    return product.view(out, *kernel, channels).permute(0, 3, 1, 2)


def _pair(value: Any) -> tuple[int, int] | None:
    """Two numbers, of one or two, as PyTorch reads them; None: padding by name, or what only PyTorch can read."""
    if not isinstance(value, int | list | tuple):
        return None
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return (numbers[0], numbers[-1]) if len(numbers) in (1, 2) else None
