"""AltUp: predict and correct K residual streams around one layer, in one pass over them.

    predicted_i = sum_j p_ij x_j;    new_i = predicted_i + g_i (y - predicted_a)

where y is the layer's output on the active stream a. Nothing predicted is stored, for this is one mix of K + 1
streams, new = [P - g P_a | g] [x; y]: 2K + 1 streams of traffic forward, 3K + 2 backward. The old streams are summed
before y is added, so that with P = I, g = 1 and equal streams, where they cancel, every new stream is y to the bit.
Sources: Baykal et al. 2023, algorithm 1 (one P and g a layer); Gemma 3n (P and g of every token).

Names: K streams, T tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import autocasting, differentiable, fallback, full_precision, fused, room_for, way
from naslab.kernels._triton import Launch, ceil_div, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

CROSSOVER = 262_144
"""Elements of all streams from which the C++ loops win on a CPU (`naslab bench kernels`)."""
FORWARD = {"any": Launch(256, rows=4), "gfx": Launch(256, rows=4, num_warps=2)}
BACKWARD = {"any": Launch(512), "gfx": Launch(512, num_warps=4)}


@full_precision
def reference(x_KTD: Tensor, y_TD: Tensor, p_SKK: Tensor, g_SK: Tensor, active: int) -> Tensor:
    """The definition. S is T, or 1 where all tokens share their coefficients."""
    mix_KSK = (p_SKK - g_SK[:, :, None] * p_SKK[:, active, None, :]).to(x_KTD.dtype).transpose(0, 1)
    new_KTD = mix_KSK[..., 0, None] * x_KTD[0]
    for j in range(1, x_KTD.shape[0]):
        new_KTD = new_KTD + mix_KSK[..., j, None] * x_KTD[j]
    return new_KTD + g_SK.to(x_KTD.dtype).T[:, :, None] * y_TD


@kernel
@no_type_check
def altup_forward(
    x_ptr, y_ptr, p_ptr, g_ptr, new_ptr, tokens, width, token_stride,
    STREAMS: tl.constexpr, ACTIVE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One tile of ROWS tokens by BLOCK features, all streams; coefficients shared by all tokens have stride 0."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tile = t[:, None] * width + d[None, :]
    here = (t < tokens)[:, None] & (d < width)[None, :]
    plane = tl.cast(tokens, tl.int64) * width
    p = p_ptr + t * token_stride * STREAMS * STREAMS
    g = g_ptr + t * token_stride * STREAMS
    y = tl.load(y_ptr + tile, mask=here, other=0.0).to(tl.float32)
    x = ()
    for j in tl.static_range(STREAMS):
        x = x + (tl.load(x_ptr + j * plane + tile, mask=here, other=0.0).to(tl.float32),)
    for i in tl.static_range(STREAMS):
        gain = tl.load(g + i, mask=t < tokens, other=0.0).to(tl.float32)
        new = tl.zeros((ROWS, BLOCK), tl.float32)
        for j in tl.static_range(STREAMS):
            mixed = tl.load(p + i * STREAMS + j, mask=t < tokens, other=0.0).to(tl.float32)
            mixed -= gain * tl.load(p + ACTIVE * STREAMS + j, mask=t < tokens, other=0.0).to(tl.float32)
            new += mixed[:, None] * x[j]
        new += gain[:, None] * y
        tl.store(new_ptr + i * plane + tile, new.to(new_ptr.dtype.element_ty), mask=here)


@kernel
@no_type_check
def altup_backward(
    grad_ptr, x_ptr, y_ptr, p_ptr, g_ptr, dx_ptr, dy_ptr, products_ptr, tokens, width, token_stride,
    STREAMS: tl.constexpr, ACTIVE: tl.constexpr, PER_TOKEN: tl.constexpr,
    STREAM_GRADS: tl.constexpr, LAYER_GRAD: tl.constexpr, PRODUCTS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All features of ROWS tokens. `products` gets <grad_i, x_j> and <grad_i, y>, by token or summed by program."""
    program = tl.program_id(0).to(tl.int64)
    t = program * ROWS + tl.arange(0, ROWS)
    there = t < tokens
    plane = tl.cast(tokens, tl.int64) * width
    p = p_ptr + t * token_stride * STREAMS * STREAMS
    g = g_ptr + t * token_stride * STREAMS
    products = ()
    for _ in tl.static_range(STREAMS * (STREAMS + 1)):
        products = products + (tl.zeros((ROWS,), tl.float32),)
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        tile = t[:, None] * width + d[None, :]
        here = there[:, None] & (d < width)[None, :]
        grads = ()
        dy = tl.zeros((ROWS, BLOCK), tl.float32)
        for i in tl.static_range(STREAMS):
            grad = tl.load(grad_ptr + i * plane + tile, mask=here, other=0.0).to(tl.float32)
            dy += tl.load(g + i, mask=there, other=0.0).to(tl.float32)[:, None] * grad
            grads = grads + (grad,)
        if LAYER_GRAD:
            tl.store(dy_ptr + tile, dy.to(dy_ptr.dtype.element_ty), mask=here)
        if PRODUCTS:
            summed = ()
            for j in tl.static_range(STREAMS + 1):
                source = x_ptr + j * plane if j < STREAMS else y_ptr
                other = tl.load(source + tile, mask=here, other=0.0).to(tl.float32)
                for i in tl.static_range(STREAMS):
                    summed = summed + (products[j * STREAMS + i] + tl.sum(grads[i] * other, 1),)
            products = summed
        if STREAM_GRADS:
            for j in tl.static_range(STREAMS):
                dx = -tl.load(p + ACTIVE * STREAMS + j, mask=there, other=0.0).to(tl.float32)[:, None] * dy
                for i in tl.static_range(STREAMS):
                    dx += tl.load(p + i * STREAMS + j, mask=there, other=0.0).to(tl.float32)[:, None] * grads[i]
                tl.store(dx_ptr + j * plane + tile, dx.to(dx_ptr.dtype.element_ty), mask=here)
    if PRODUCTS:
        for n in tl.static_range(STREAMS * (STREAMS + 1)):
            if PER_TOKEN:
                tl.store(products_ptr + t * STREAMS * (STREAMS + 1) + n, products[n], mask=there)
            else:
                tl.store(products_ptr + program * STREAMS * (STREAMS + 1) + n, tl.sum(products[n]))


LOOPS = "altup.cpp"


@torch.library.custom_op("naslab::altup", mutates_args=())
def _forward(x: Tensor, y: Tensor, p: Tensor, g: Tensor, active: int) -> Tensor:
    match way(x, LOOPS):
        case "triton":
            return _triton_forward(x, y, p, g, active)
        case "native":
            new = torch.empty_like(x)
            _native.call(LOOPS, "altup_forward", x, y, p.float(), g.float(), new, *x.shape, int(p.shape[0] > 1), active)
            return new
    return reference(x, y, p, g, active)


@_forward.register_fake
def _(x: Tensor, y: Tensor, p: Tensor, g: Tensor, active: int) -> Tensor:
    return torch.empty_like(x)


def _triton_forward(x: Tensor, y: Tensor, p: Tensor, g: Tensor, active: int) -> Tensor:
    (streams, tokens, width), new = x.shape, torch.empty_like(x)
    if new.numel():
        size = launch("altup_forward", x.device, FORWARD)
        grid = (ceil_div(tokens, size.rows), ceil_div(width, size.block))
        altup_forward[grid](
            x, y, p, g, new, tokens, width, int(p.shape[0] > 1),
            STREAMS=streams, ACTIVE=active, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
    return new


@torch.library.custom_op("naslab::altup_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, y: Tensor, p: Tensor, g: Tensor, active: int, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    path = way(x, LOOPS)
    if path == "reference":
        dx, dy, dp, dg = fallback(reference, _together(needed), grad, x, y, p, g, active)
        return dx, dy, dp, dg
    dx, dy, dp, dg = _room(x, y, p, g, needed)
    products = _products(path, grad, x, y, p, g, active, dx, dy, needed)
    if not any(needed[2:]):
        return dx, dy, dp, dg
    if p.shape[0] == 1:
        products = products.sum(0, keepdim=True)
    # From the gradient of the mix [P - g P_a | g] to those of P and g.
    dm, dg_direct = products[:, :-1].mT, products[:, -1]
    dp = dm.clone(memory_format=torch.contiguous_format)
    dp[:, active] -= (g.float()[:, None] @ dm).squeeze(1)
    dg = dg_direct - (dm @ p.float()[:, active, :, None]).squeeze(-1)
    return dx, dy, dp.to(p.dtype), dg.to(g.dtype)


@_backward.register_fake
def _(
    grad: Tensor, x: Tensor, y: Tensor, p: Tensor, g: Tensor, active: int, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _room(x, y, p, g, needed)


def _together(needed: list[bool]) -> list[bool]:
    """The gradients of P and g come from the same products."""
    return [*needed[:2], any(needed[2:]), any(needed[2:])]


def _room(x: Tensor, y: Tensor, p: Tensor, g: Tensor, needed: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dy, dp, dg = map(room_for, (x, y, p, g), _together(needed))
    return dx, dy, dp, dg


def _products(
    path: str, grad: Tensor, x: Tensor, y: Tensor, p: Tensor, g: Tensor, active: int, dx: Tensor, dy: Tensor,
    needed: list[bool],
) -> Tensor:  # fmt: skip
    """Fills dx and dy; returns inner products (rows, K + 1, K), whose sum over rows is over all tokens."""
    streams, tokens, width = x.shape
    per_token, mixes = p.shape[0] > 1, any(needed[2:])
    if path == "native":
        products = x.new_empty(tokens if mixes else 0, streams + 1, streams)
        pointers = (grad, x, y, p.float(), g.float(), dx, dy, products)
        _native.call(LOOPS, "altup_backward", *pointers, *x.shape, int(per_token), active)
        return products
    size = launch("altup_backward", x.device, BACKWARD)
    programs = ceil_div(tokens, size.rows)
    rows = (tokens if per_token else programs) if mixes else 0
    products = x.new_empty(rows, streams + 1, streams, dtype=torch.float32)
    if programs:
        altup_backward[(programs,)](
            grad, x, y, p, g, dx, dy, products, tokens, width, int(per_token),
            STREAMS=streams, ACTIVE=active, PER_TOKEN=per_token,
            STREAM_GRADS=needed[0], LAYER_GRAD=needed[1], PRODUCTS=mixes,
            ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
    return products


_operation = differentiable("altup", reference, leading=4)


def altup(streams: Tensor, layer_output: Tensor, prediction: Tensor, gain: Tensor, active: int = 0) -> Tensor:
    """The new streams (K, ..., D) after a layer ran on one of them; deterministic.

    Args:
        streams: (K, ..., D), floating point.
        layer_output: (..., D), what the layer made of the active stream.
        prediction: p (K, K), or (..., K, K) with one matrix for every token.
        gain: g (K), or (..., K).
        active: the stream that the layer saw.

    Raises:
        ValueError: an argument's shape or dtype does not fit.
    """
    _check(streams, layer_output, prediction, gain, active)
    if autocasting(streams):
        layer_output = layer_output.to(streams.dtype)
    num_streams, width = streams.shape[0], streams.shape[-1]
    x_KTD = streams.reshape(num_streams, -1, width) if streams.numel() else streams.flatten(1, -2)
    y_TD = layer_output.reshape(x_KTD.shape[1:])
    p_SKK = prediction.reshape(-1 if prediction.numel() else 0, num_streams, num_streams)
    g_SK = gain.reshape(p_SKK.shape[0], num_streams)
    if fused(x_KTD, CROSSOVER, LOOPS):
        contiguous = (t.contiguous() for t in (x_KTD, y_TD, p_SKK, g_SK))
        new: Tensor = _operation(*contiguous, active)
    else:
        new = reference(x_KTD, y_TD, p_SKK, g_SK, active)
    return new.reshape(streams.shape)


def _check(streams: Tensor, layer_output: Tensor, prediction: Tensor, gain: Tensor, active: int) -> None:
    if not (streams.ndim >= 2 and streams.is_floating_point()):
        raise misfit("streams", streams, "a floating (K, ..., D)")
    k, tokens = streams.shape[0], tuple(streams.shape[1:-1])
    if layer_output.shape != streams.shape[1:]:
        raise misfit("layer_output", layer_output, f"{tuple(streams.shape[1:])}")
    if not autocasting(streams) and layer_output.dtype != streams.dtype:
        raise misfit("layer_output", layer_output, f"{streams.dtype} as streams")
    # Not `in`: of symbolic sizes Dynamo of torch 2.11 finds a tuple in no other.
    if prediction.shape != (k, k) and prediction.shape != (*tokens, k, k):
        raise misfit("prediction", prediction, f"{(k, k)} or {(*tokens, k, k)}")
    if gain.shape != prediction.shape[:-1]:
        raise misfit("gain", gain, f"{tuple(prediction.shape[:-1])}")
    for name, tensor in (("layer_output", layer_output), ("prediction", prediction), ("gain", gain)):
        same_device(name, tensor, streams)
    if not 0 <= active < k:
        raise ValueError(f"active: {active} is not a stream, 0 to {k - 1}")


def flops(streams: int, tokens: int, width: int, backward: bool = False) -> int:
    """FLOPs: the mix of K + 1 streams into K; backward its transpose, and the products for P and g."""
    mix = 2 * streams * (streams + 1) * tokens * width
    return 2 * mix if backward else mix


def traffic_bytes(streams: int, tokens: int, width: int, element_bytes: int, backward: bool = False) -> int:
    """Bytes that must move: 2K + 1 streams forward, 3K + 2 backward."""
    return (3 * streams + 2 if backward else 2 * streams + 1) * tokens * width * element_bytes
