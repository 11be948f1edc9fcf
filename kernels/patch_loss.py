"""Masked-autoencoder loss: mean squared error of predicted pixels, on the masked patches only.

    loss = mean over masked patches m and pixels e of (predicted_me - target_me)^2
    target = (pixels - mean) / sqrt(variance + 1e-6) of the patch, or the pixels themselves

Targets are made on the fly: an eager loss writes them for all patches of the image, several times over.
Source: He et al. 2022, section 3 and "reconstruction target"; variance with Bessel's correction, pixels in the order
(row, column, channel), as in the published code.

Names: B batch, C channels, H x W pixels, M masked patches, P pixels of a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor

from naslab.kernels import _native
from naslab.kernels._check import check_indices, misfit, same_device
from naslab.kernels._dispatch import Way, differentiable, fallback, full_precision, fused, way
from naslab.kernels._triton import Launch, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

EPSILON = 1e-6
CROSSOVER = 8_192
"""Predicted elements from which the C++ loops win on a CPU (`naslab bench kernels`)."""
LAUNCH = {"any": Launch(0, num_warps=4), "gfx": Launch(0, num_warps=4)}
LANES = 8
"""Pixels that a thread holds at most: a program holds a whole patch."""
MOST_PIXELS = 4096
"""Pixels of the largest patch that fits the registers of a program; larger ones take the reference."""


def patches(images_BCHW: Tensor, size: int) -> Tensor:
    """All patches of the images as (B, L, P), rows of the grid first, channels innermost."""
    b, c, h, w = images_BCHW.shape
    grid = images_BCHW.reshape(b, c, h // size, size, w // size, size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // size) * (w // size), size * size * c)


def targets(images_BCHW: Tensor, masked_BM: Tensor, size: int, normalised: bool) -> Tensor:
    """What the masked patches should be predicted as, (B, M, P)."""
    rows = torch.arange(masked_BM.shape[0], device=masked_BM.device)[:, None]
    chosen_BMP = patches(images_BCHW, size)[rows, masked_BM]
    if not (normalised and chosen_BMP.numel()):
        return chosen_BMP
    if chosen_BMP.shape[-1] == 1:
        return torch.full_like(chosen_BMP, torch.nan)  # one value has no variance
    variance, mean = torch.var_mean(chosen_BMP, -1, keepdim=True)
    return (chosen_BMP - mean) * (variance + EPSILON).rsqrt()


@full_precision
def reference(predicted_BMP: Tensor, images_BCHW: Tensor, masked_BM: Tensor, size: int, normalised: bool) -> Tensor:
    """The definition."""
    dtype = torch.promote_types(predicted_BMP.dtype, images_BCHW.dtype)
    error = predicted_BMP.to(dtype) - targets(images_BCHW, masked_BM, size, normalised).to(dtype)
    return error.square().sum() / max(error.numel(), 1)


@kernel
@no_type_check
def masked_target(
    images_ptr, patch, sample, channels, height, width,
    SIZE: tl.constexpr, NORMALISED: tl.constexpr, EPSILON: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pixels of one patch, normalised, and which lanes hold one."""
    e = tl.arange(0, BLOCK)
    pixels = SIZE * SIZE * channels
    here = e < pixels
    row = (patch // (width // SIZE)) * SIZE + e // (SIZE * channels)
    column = (patch % (width // SIZE)) * SIZE + (e // channels) % SIZE
    address = ((sample * channels + e % channels) * height + row) * width + column
    target = tl.load(images_ptr + address, mask=here, other=0.0).to(tl.float32)
    if NORMALISED:
        deviation = tl.where(here, target - tl.sum(target) / pixels, 0.0)
        target = deviation * tl.rsqrt(tl.sum(deviation * deviation) / (pixels - 1) + EPSILON)
    return target, here


@kernel
@no_type_check
def patch_loss_forward(
    predicted_ptr, images_ptr, masked_ptr, losses_ptr, num_masked, channels, height, width,
    SIZE: tl.constexpr, NORMALISED: tl.constexpr, EPSILON: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Squared error of one masked patch."""
    m = tl.program_id(0).to(tl.int64)
    patch = tl.load(masked_ptr + m)
    target, here = masked_target(
        images_ptr, patch, m // num_masked, channels, height, width, SIZE, NORMALISED, EPSILON, BLOCK
    )
    e = m * SIZE * SIZE * channels + tl.arange(0, BLOCK)
    error = tl.load(predicted_ptr + e, mask=here, other=0.0).to(tl.float32) - target
    tl.store(losses_ptr + m, tl.sum(tl.where(here, error * error, 0.0)))


@kernel
@no_type_check
def patch_loss_backward(
    grad_ptr, predicted_ptr, images_ptr, masked_ptr, out_ptr, num_masked, channels, height, width, factor,
    SIZE: tl.constexpr, NORMALISED: tl.constexpr, EPSILON: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of one masked patch's prediction: factor * grad * (predicted - target)."""
    m = tl.program_id(0).to(tl.int64)
    patch = tl.load(masked_ptr + m)
    target, here = masked_target(
        images_ptr, patch, m // num_masked, channels, height, width, SIZE, NORMALISED, EPSILON, BLOCK
    )
    e = m * SIZE * SIZE * channels + tl.arange(0, BLOCK)
    error = tl.load(predicted_ptr + e, mask=here, other=0.0).to(tl.float32) - target
    scaled = tl.load(grad_ptr).to(tl.float32) * factor * error
    tl.store(out_ptr + e, scaled.to(out_ptr.dtype.element_ty), mask=here)


LOOPS = "patch_loss.cpp"


@torch.library.custom_op("naslab::patch_loss", mutates_args=())
def _forward(predicted: Tensor, images: Tensor, masked: Tensor, size: int, normalised: bool) -> Tensor:
    path = _way(predicted, images)
    if path == "reference":
        return reference(predicted, images, masked, size, normalised)
    losses = predicted.new_empty(masked.shape, dtype=torch.float32)
    if path == "native":
        sizes = (*masked.shape, *images.shape[1:], size, int(normalised))
        _native.call(LOOPS, "patch_loss", predicted, images.float(), masked, losses, *sizes, EPSILON, 0.0)
    elif losses.numel():
        patch_loss_forward[(losses.numel(),)](
            predicted,
            images,
            masked,
            losses,
            masked.shape[1],
            *images.shape[1:],
            **_constants(images, size, normalised),
        )
    total = losses.sum() / max(predicted.numel(), 1)
    return total.to(torch.promote_types(predicted.dtype, images.dtype))


@_forward.register_fake
def _(predicted: Tensor, images: Tensor, masked: Tensor, size: int, normalised: bool) -> Tensor:
    return predicted.new_empty((), dtype=torch.promote_types(predicted.dtype, images.dtype))


@torch.library.custom_op("naslab::patch_loss_backward", mutates_args=())
def _backward(grad: Tensor, predicted: Tensor, images: Tensor, masked: Tensor, size: int, normalised: bool) -> Tensor:
    path = _way(predicted, images)
    if path == "reference":
        return fallback(reference, [True], grad, predicted, images, masked, size, normalised)[0]
    out, factor = torch.empty_like(predicted), 2 / max(predicted.numel(), 1)
    if path == "native":
        sizes = (*masked.shape, *images.shape[1:], size, int(normalised))
        _native.call(LOOPS, "patch_loss", predicted, images.float(), masked, out, *sizes, EPSILON, factor)
        out *= grad
    elif masked.numel():
        patch_loss_backward[(masked.numel(),)](
            grad, predicted, images, masked, out, masked.shape[1], *images.shape[1:], factor,
            **_constants(images, size, normalised),
        )  # fmt: skip
    return out


@_backward.register_fake
def _(grad: Tensor, predicted: Tensor, images: Tensor, masked: Tensor, size: int, normalised: bool) -> Tensor:
    return torch.empty_like(predicted)


def _way(predicted: Tensor, images: Tensor) -> Way:
    path = way(predicted, LOOPS) if images.dtype != torch.float64 else "reference"
    return "reference" if path == "triton" and predicted.shape[2] > MOST_PIXELS else path


def _constants(images: Tensor, size: int, normalised: bool) -> dict[str, int | float | bool]:
    pixels = size * size * images.shape[1]
    block = 1 << (pixels - 1).bit_length()
    warps = max(launch("patch_loss", images.device, LAUNCH).num_warps, block // (32 * LANES))
    return {"SIZE": size, "NORMALISED": normalised, "EPSILON": EPSILON, "BLOCK": block, "num_warps": warps}


_operation = differentiable("patch_loss", reference, leading=1)


def patch_loss(
    predicted_BMP: Tensor, images_BCHW: Tensor, masked_BM: Tensor, patch_size: int, normalised: bool = True
) -> Tensor:
    """Mean squared error of the masked patches' pixels, a scalar; deterministic, differentiable in the prediction.

    Args:
        predicted_BMP: predicted pixels of the masked patches, floating point.
        images_BCHW: the images, floating point; they get no gradient.
        masked_BM: int64, which patches were masked, 0 to L - 1, row by row.
        patch_size: side of a patch in pixels; divides H and W.
        normalised: compare with the patch's pixels normalised by their own mean and variance.

    Raises:
        ValueError: an argument's shape or dtype does not fit.
    """
    _check(predicted_BMP, images_BCHW, masked_BM, patch_size)
    arguments = (predicted_BMP, images_BCHW.detach(), masked_BM)
    if fused(predicted_BMP, CROSSOVER, LOOPS, on_gpu="eager"):
        loss: Tensor = _operation(*(t.contiguous() for t in arguments), patch_size, normalised)
        return loss
    return reference(*arguments, patch_size, normalised)


def _check(predicted_BMP: Tensor, images_BCHW: Tensor, masked_BM: Tensor, patch_size: int) -> None:
    if not (images_BCHW.ndim == 4 and images_BCHW.is_floating_point()):
        raise misfit("images_BCHW", images_BCHW, "a floating (B, C, H, W)")
    b, c, h, w = images_BCHW.shape
    if patch_size < 1 or h % patch_size or w % patch_size:
        raise ValueError(f"patch_size: {patch_size} does not divide images of {h} x {w}")
    if masked_BM.ndim != 2:
        raise misfit("masked_BM", masked_BM, f"int64 ({b}, M)")
    check_indices("masked_BM", masked_BM, (b, masked_BM.shape[1]), (h // patch_size) * (w // patch_size), images_BCHW)
    same_device("predicted_BMP", predicted_BMP, images_BCHW)
    expected = (b, masked_BM.shape[1], patch_size**2 * c)
    fits = tuple(predicted_BMP.shape) == expected and predicted_BMP.is_floating_point()
    if not fits:
        raise misfit("predicted_BMP", predicted_BMP, f"a floating {expected}")


def flops(masked: int, pixels: int, backward: bool = False) -> int:
    """FLOPs over all masked patches: 5 a pixel for the statistics, 3 for the error; backward 1 fewer and no sum."""
    return masked * pixels * (7 if backward else 8)


def traffic_bytes(masked: int, pixels: int, element_bytes: int, image_bytes: int, backward: bool = False) -> int:
    """Bytes that must move: each masked pixel and its prediction once; backward also the gradient."""
    return masked * pixels * (element_bytes * (2 if backward else 1) + image_bytes)
