"""The table of the kernels: each operation, forward and backward, against eager PyTorch, torch.compile and the memory.

Nothing is timed before it has been found correct at the same shapes. On CUDA times are read from the kernel clock, the
L2 cache flushed; elsewhere end to end. `limit_ms` is the operation's least traffic at
the copy bandwidth measured on this very device just before; on a CPU small tensors stay in its caches, so that a
share above 1 is possible there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from efficiency.clocks import Clock, kernel_clock
from efficiency.errors import InputError
from efficiency.latency import compare_latency, measure_latency
from efficiency.provenance import collect_provenance, dtype_name
from kernels import ACTIVATIONS, TokenMask, altup, gather_visible, mixed_activation, patch_loss, restore_tokens
from kernels import token_mask as make_mask
from kernels._dispatch import switched

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2.5e-2, torch.float16: 1e-2}
COPIED_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Row:
    """Median milliseconds of forward and backward; None where not measured. `share` is limit over ours."""

    kernel: str
    shape: str
    dtype: str
    eager_ms: float | None
    compile_ms: float | None
    ours_ms: float | None
    limit_ms: float
    share: float | None
    correct: bool


@dataclass(frozen=True)
class Case:
    """One line of the table: `step` maps leaves to a result, `traffic_bytes` is of forward and backward."""

    kernel: str
    shape: str
    leaves: tuple[Tensor, ...]
    step: Callable[..., Tensor]
    traffic_bytes: int


def kernel_table(
    device: torch.device, dtype: torch.dtype, max_seconds: float, compiled: bool = True, only: str | None = None
) -> dict[str, Any]:
    """The document of `naslab bench kernels`: rows, measured copy bandwidth, provenance.

    Args:
        max_seconds: for each measurement.
        compiled: also time torch.compile of the reference, which takes most of a minute a row.
        only: one kernel by name.

    Raises:
        InputError: no kernel of that name.
    """
    cases = [case for case in _cases(device, dtype) if only in (None, case.kernel)]
    if not cases:
        raise InputError(
            f"kernel: {only!r} is unknown; use {', '.join(sorted({c.kernel for c in _cases(device, dtype)}))}"
        )
    clock = kernel_clock(device)
    bandwidth = copy_bandwidth(device)
    rows = [_measure(case, device, clock, dtype, bandwidth, max_seconds, compiled) for case in cases]
    return {
        "schema": "naslab.bench/1",
        "clock": clock.name,
        "copy_bytes_per_second": bandwidth,
        "rows": [asdict(row) for row in rows],
        "provenance": collect_provenance(device, dtype_name(dtype)).to_dict(),
    }


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a copy too large for any cache."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    latency = measure_latency(lambda: target.copy_(source), device, min_seconds=0.2, max_seconds=2)
    return 2 * COPIED_BYTES / (latency.median / 1e3)


def _measure(
    case: Case,
    device: torch.device,
    clock: Clock,
    dtype: torch.dtype,
    bandwidth: float,
    max_seconds: float,
    compiled: bool,
) -> Row:
    limit_ms = case.traffic_bytes / bandwidth * 1e3
    facts = (case.kernel, case.shape, dtype_name(dtype))
    if not _correct(case, dtype):
        return Row(*facts, None, None, None, limit_ms, None, False)

    def eager() -> None:
        with switched("reference"):
            _run(case.step, case.leaves)

    def ours() -> None:
        _run(case.step, case.leaves)

    shortest = min(0.5, max_seconds)
    both = compare_latency(eager, ours, device, min_seconds=shortest, max_seconds=max_seconds, clock=clock)
    compile_ms = _compiled_ms(case, device, clock, max_seconds) if compiled else None
    ours_ms = both.b.median
    return Row(*facts, both.a.median, compile_ms, ours_ms, limit_ms, limit_ms / ours_ms, True)


def _compiled_ms(case: Case, device: torch.device, clock: Clock, max_seconds: float) -> float:
    torch.compiler.reset()
    step = torch.compile(case.step, fullgraph=True)
    with switched("reference"):
        return measure_latency(
            lambda: _run(step, case.leaves), device, min_seconds=0.2, max_seconds=max_seconds, clock=clock
        ).median


def _run(step: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> list[Tensor]:
    result = step(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, torch.ones_like(result))]


def _correct(case: Case, dtype: torch.dtype) -> bool:
    """Result and gradients within the dtype's tolerance (relative norm) of the reference in float64."""
    exact = tuple(leaf.detach().double().requires_grad_() for leaf in case.leaves)
    with switched("reference"):
        expected = _run(case.step, exact)
    with switched("fused"):
        actual = _run(case.step, case.leaves)
    errors = ((a.double() - e).norm() / e.norm().clamp(min=1e-30) for a, e in zip(actual, expected, strict=True))
    return all(float(error) <= TOLERANCE[dtype] for error in errors)


def _cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    torch.manual_seed(0)
    size = torch.empty(0, dtype=dtype).element_size()
    large = device.type == "cuda"

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype).requires_grad_()

    for k, t, d in ((2, 8, 16), (2, 64, 128), (4, 2048, 768), *(((4, 8192, 2048),) if large else ())):
        module = importlib.import_module("kernels.altup")
        traffic = module.traffic_bytes(k, t, d, size) + module.traffic_bytes(k, t, d, size, backward=True)
        yield Case("altup", f"{k}x{t}x{d}", (leaf(k, t, d), leaf(t, d), leaf(k, k), leaf(k)), altup, traffic)

    for b, d in ((8, 16), (64, 64), (256, 256), (512, 2048), *(((8192, 2048),) if large else ())):
        module = importlib.import_module("kernels.mixed_activation")
        traffic = module.traffic_bytes(b, 4, d, size) + module.traffic_bytes(b, 4, d, size, backward=True)
        leaves = (leaf(b, 4, d), leaf(4), leaf(4, d), leaf(4, d))
        yield Case("mixed_activation", f"{b}x4x{d}", leaves, _mix, traffic)

    for b, side, p in ((2, 8, 4), (8, 32, 4), (16, 224, 16)):
        yield _patch_case(leaf, b, side, p, size)

    for b, length, k, d in ((2, 16, 4, 16), (16, 196, 49, 192), (32, 196, 49, 768)):
        yield from _mask_cases(leaf, b, length, k, d, size)


def _mix(x_BKD: Tensor, mixing_K: Tensor, scale_KD: Tensor, shift_KD: Tensor) -> Tensor:
    return mixed_activation(x_BKD, mixing_K, scale_KD, shift_KD, tuple(ACTIVATIONS)).output


def _patch_case(leaf: Callable[..., Tensor], batch: int, side: int, patch: int, element_bytes: int) -> Case:
    length = (side // patch) ** 2
    masked, pixels = length * 3 // 4, 3 * patch**2
    images = leaf(batch, 3, side, side).detach()
    indices = torch.rand(batch, length, device=images.device).argsort(1)[:, :masked].contiguous()
    module = importlib.import_module("kernels.patch_loss")
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
    bytes_of = importlib.import_module("kernels.token_mask").traffic_bytes

    def gather(tokens_BLD: Tensor, positions_LD: Tensor) -> Tensor:
        return gather_visible(tokens_BLD, mask, positions_LD)

    def restore(visible_BKD: Tensor, token_D: Tensor, positions_LD: Tensor) -> Tensor:
        return restore_tokens(visible_BKD, mask, token_D, positions_LD)

    traffic = bytes_of(kept, kept, width, element_bytes) + bytes_of(kept, rows, width, element_bytes)
    yield Case("gather_visible", shape, (tokens, leaf(length, width)), gather, traffic)
    traffic = bytes_of(kept, rows, width, element_bytes) + bytes_of(rows, kept, width, element_bytes)
    leaves = (leaf(batch, visible, width), leaf(width), leaf(length, width))
    yield Case("restore_tokens", shape, leaves, restore, traffic)
