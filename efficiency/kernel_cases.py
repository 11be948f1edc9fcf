"""The cases of the kernels: each operation at the shapes that the table times and the tuner tries, with its inputs.

The tests check the very same steps: what is timed is what was found correct.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from naslab.errors import InputError
from naslab.kernels import (
    ACTIVATIONS,
    TokenMask,
    altup,
    bipartite_match,
    class_scores,
    distill_kl,
    feature_pool,
    gather_visible,
    info_nce,
    merge_tokens,
    mixed_activation,
    negative_cosine,
    nt_xent,
    patch_loss,
    restore_tokens,
    select_tokens,
    unmerge_tokens,
)
from naslab.kernels import token_mask as make_mask


@dataclass(frozen=True)
class Case:
    """An operation at one shape: `step` maps leaves to a result, `traffic_bytes` is of forward and backward.

    `cancels`: the result is a mean of terms of both signs and order 1, so that its error is absolute.
    """

    kernel: str
    shape: str
    leaves: tuple[Tensor, ...]
    step: Callable[..., Tensor]
    traffic_bytes: int
    cancels: bool = False


def cases(device: torch.device, dtype: torch.dtype, only: str | None = None) -> list[Case]:
    """The lines of the table, each kernel's largest last.

    Raises:
        InputError: no kernel of the name `only`.
    """
    every = list(_cases(device, dtype))
    chosen = [case for case in every if only in (None, case.kernel)]
    if not chosen:
        raise InputError(f"kernel: {only!r} is unknown; use {', '.join(sorted({case.kernel for case in every}))}")
    return chosen


def _cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    torch.manual_seed(0)
    size = torch.empty(0, dtype=dtype).element_size()
    large = device.type == "cuda"

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype).requires_grad_()

    for k, t, d in ((2, 8, 16), (2, 64, 128), (4, 2048, 768), *(((4, 8192, 2048),) if large else ())):
        module = importlib.import_module("naslab.kernels.altup")
        traffic = module.traffic_bytes(k, t, d, size) + module.traffic_bytes(k, t, d, size, backward=True)
        yield Case("altup", f"{k}x{t}x{d}", (leaf(k, t, d), leaf(t, d), leaf(k, k), leaf(k)), altup, traffic)

    for b, d in ((8, 16), (64, 64), (256, 256), (512, 2048), *(((8192, 2048),) if large else ())):
        module = importlib.import_module("naslab.kernels.mixed_activation")
        traffic = module.traffic_bytes(b, 4, d, size) + module.traffic_bytes(b, 4, d, size, backward=True)
        leaves = (leaf(b, 4, d), leaf(4), leaf(4, d), leaf(4, d))
        yield Case("mixed_activation", f"{b}x4x{d}", leaves, _mix, traffic)

    for b, d in ((8, 16), (64, 128), (256, 512), (256, 2048)):
        yield from _pool_cases(leaf, b, d, size)

    for b, side, p in ((2, 8, 4), (8, 32, 4), (16, 224, 16)):
        yield _patch_case(leaf, b, side, p, size)

    for rows, v in ((8, 16), (64, 1024), (512, 8192), *(((4096, 32_768),) if large else ())):
        module = importlib.import_module("naslab.kernels.distill_kl")
        traffic = module.traffic_bytes(rows, v, size) + module.traffic_bytes(rows, v, size, backward=True)
        yield Case("distill_kl", f"{rows}x{v}", (leaf(rows, v),), _imitate(leaf(rows, v).detach()), traffic)

    for b, length, k, d in ((2, 16, 4, 16), (16, 196, 49, 192), (32, 196, 49, 768)):
        yield from _mask_cases(leaf, b, length, k, d, size)

    for b, heads, n, d in (
        (2, 2, 17, 16),
        (8, 3, 197, 64),
        (32, 12, 197, 64),
        *(((32, 12, 1568, 64),) if large else ()),
    ):
        yield _score_case(leaf, b, heads, n, d, size)
        yield from _fewer_cases(leaf, b, n, heads * d, size)

    yield from _contrastive_cases(leaf, size, large)


def _contrastive_cases(leaf: Callable[..., Tensor], element_bytes: int, large: bool) -> Iterator[Case]:
    xent, nce, cosine = (
        importlib.import_module(f"naslab.kernels.{name}") for name in ("nt_xent", "info_nce", "negative_cosine")
    )

    for b, d in ((8, 16), (64, 64), (128, 128), (512, 128), *(((4096, 128),) if large else ())):
        sizes = (2 * b, d, element_bytes)
        traffic = xent.traffic_bytes(*sizes) + xent.traffic_bytes(*sizes, backward=True)
        step = partial(nt_xent, temperature=0.5)
        yield Case("nt_xent", f"{b}x{d}", (leaf(b, d), leaf(b, d)), step, traffic)

    for b, k, d in ((8, 32, 16), (64, 512, 64), (64, 4096, 128), (256, 65_536, 128)):
        traffic = nce.traffic_bytes(b, k, d, element_bytes) + nce.traffic_bytes(b, k, d, element_bytes, backward=True)
        leaves = tuple(normalize(leaf(b, d).detach(), dim=1).requires_grad_() for _ in range(2))
        yield Case("info_nce", f"{b}x{k}x{d}", leaves, _against(normalize(leaf(k, d).detach(), dim=1)), traffic)

    for b, d in ((8, 16), (64, 64), (512, 2048), *(((8192, 2048),) if large else ())):
        traffic = cosine.traffic_bytes(b, d, element_bytes) + cosine.traffic_bytes(b, d, element_bytes, backward=True)
        yield Case("negative_cosine", f"{b}x{d}", (leaf(b, d),), _towards(leaf(b, d).detach()), traffic, cancels=True)


def _against(queue_KD: Tensor) -> Callable[..., Tensor]:
    return lambda query, key: info_nce(query, key, queue_KD.to(query.dtype), 0.2)


def _towards(z_BD: Tensor) -> Callable[..., Tensor]:
    return lambda p: negative_cosine(p, z_BD.to(p.dtype))


def _imitate(expert_NV: Tensor) -> Callable[..., Tensor]:
    return lambda logits: distill_kl(logits, expert_NV.to(logits.dtype))


def _mix(x_BKD: Tensor, mixing_K: Tensor, scale_KD: Tensor, shift_KD: Tensor) -> Tensor:
    return mixed_activation(x_BKD, mixing_K, scale_KD, shift_KD, tuple(ACTIVATIONS)).output


def _pool_cases(leaf: Callable[..., Tensor], batch: int, width: int, element_bytes: int) -> Iterator[Case]:
    module = importlib.import_module("naslab.kernels.feature_pool")
    for kind in get_args(module.Pool):
        sizes = (batch, width, element_bytes, kind == "maxpool")
        traffic = module.traffic_bytes(*sizes) + module.traffic_bytes(*sizes, backward=True)
        step = partial(feature_pool, kind=kind)
        yield Case("feature_pool", f"{batch}x{width} {kind}", (leaf(batch, width),), step, traffic)


def _patch_case(leaf: Callable[..., Tensor], batch: int, side: int, patch: int, element_bytes: int) -> Case:
    length = (side // patch) ** 2
    masked, pixels = length * 3 // 4, 3 * patch**2
    images = leaf(batch, 3, side, side).detach()
    indices = torch.rand(batch, length, device=images.device).argsort(1)[:, :masked].contiguous()
    module = importlib.import_module("naslab.kernels.patch_loss")
    sizes = (batch * masked, pixels, element_bytes, element_bytes)
    traffic = module.traffic_bytes(*sizes) + module.traffic_bytes(*sizes, backward=True)

    def step(predicted: Tensor) -> Tensor:
        return patch_loss(predicted, images.to(predicted.dtype), indices, patch)

    return Case("patch_loss", f"{batch}x3x{side}x{side}/{patch}", (leaf(batch, masked, pixels),), step, traffic)


def _mask_cases(
    leaf: Callable[..., Tensor], batch: int, length: int, visible: int, width: int, element_bytes: int
) -> Iterator[Case]:
    tokens = leaf(batch, length, width)
    mask: TokenMask = make_mask(torch.rand(batch, length, device=tokens.device), visible)
    shape, kept, rows = f"{batch}x{visible}of{length}x{width}", batch * visible, batch * length
    bytes_of = importlib.import_module("naslab.kernels.token_gather").traffic_bytes

    def gather(tokens_BLD: Tensor, positions_LD: Tensor) -> Tensor:
        return gather_visible(tokens_BLD, mask, positions_LD)

    def restore(visible_BKD: Tensor, token_D: Tensor, positions_LD: Tensor) -> Tensor:
        return restore_tokens(visible_BKD, mask, token_D, positions_LD)

    traffic = bytes_of(kept, kept, width, element_bytes) + bytes_of(kept, rows, width, element_bytes)
    yield Case("gather_visible", shape, (tokens, leaf(length, width)), gather, traffic)
    traffic = bytes_of(kept, rows, width, element_bytes) + bytes_of(rows, kept, width, element_bytes)
    leaves = (leaf(batch, visible, width), leaf(width), leaf(length, width))
    yield Case("restore_tokens", shape, leaves, restore, traffic)


def _score_case(
    leaf: Callable[..., Tensor], batch: int, heads: int, tokens: int, width: int, element_bytes: int
) -> Case:
    module = importlib.import_module("naslab.kernels.class_scores")
    sizes = (batch, heads, tokens, width, element_bytes)
    traffic = module.traffic_bytes(*sizes) + module.traffic_bytes(*sizes, backward=True)

    def step(query_BHD: Tensor, keys_BNHD: Tensor) -> Tensor:
        return class_scores(query_BHD, keys_BNHD.transpose(1, 2), width**-0.5)

    leaves = (leaf(batch, heads, width), leaf(batch, tokens, heads, width))
    return Case("class_scores", f"{batch}x{heads}x{tokens}x{width}", leaves, step, traffic)


def _fewer_cases(
    leaf: Callable[..., Tensor], batch: int, tokens: int, width: int, element_bytes: int
) -> Iterator[Case]:
    """Selection of 70 % with the others fused; matching and merging of a twelfth, and the way back."""
    kept, merged, rows = (tokens - 1) * 7 // 10, max(1, tokens // 12), batch * tokens
    shape = f"{batch}x{tokens}x{width}"

    def select(tokens_BND: Tensor, scores_BM: Tensor) -> Tensor:
        return select_tokens(tokens_BND, scores_BM, kept).tokens

    bytes_of = importlib.import_module("naslab.kernels.token_select").traffic_bytes
    moved = (rows, batch * (1 + kept), width, element_bytes)
    leaves = (leaf(batch, tokens, width), leaf(batch, tokens - 1))
    yield Case("select_tokens", shape, leaves, select, bytes_of(*moved) + bytes_of(*moved, backward=True))

    metric, sizes = leaf(batch, tokens, 64).detach(), torch.ones(batch, tokens, device=leaves[0].device)
    matching = bipartite_match(metric, merged)

    def merge(tokens_BND: Tensor) -> Tensor:
        return merge_tokens(tokens_BND, sizes.to(tokens_BND.dtype), bipartite_match(metric, merged))[0]

    def unmerge(merged_BKD: Tensor) -> Tensor:
        return unmerge_tokens(merged_BKD, matching)

    traffic = 2 * importlib.import_module("naslab.kernels.token_merge").traffic_bytes(
        rows, rows - batch * merged, width, element_bytes
    )
    metric_bytes = metric.numel() * element_bytes
    yield Case("merge_tokens", f"{shape}-{merged}", leaves[:1], merge, traffic + metric_bytes)
    yield Case("unmerge_tokens", f"{shape}-{merged}", (leaf(batch, tokens - merged, width),), unmerge, traffic)
