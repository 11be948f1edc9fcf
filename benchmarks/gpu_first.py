"""The first measurements on a GPU: where a reading of the kernels expected the least, and what a small call costs.

Usage: python benchmarks/gpu_first.py [--device auto] [--seconds 0.5] [--out benchmarks/results/gpu/first.json]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from results_file import write_result
from torch import Tensor

from naslab.efficiency.clocks import kernel_clock
from naslab.efficiency.device import resolve_device, synchronise
from naslab.efficiency.kernel_cases import Case, cases
from naslab.efficiency.kernel_table import copy_bandwidth
from naslab.efficiency.kernel_tuning import candidates
from naslab.efficiency.latency import compare_latency, measure_latency
from naslab.kernels import TokenMask, altup, gather_visible, nt_xent, restore_tokens, token_mask
from naslab.kernels._dispatch import switched
from naslab.kernels._triton import asked_launches, trying
from naslab.kernels.altup import traffic_bytes as altup_bytes
from naslab.kernels.token_gather import traffic_bytes as mask_bytes

CALLS = 300
Step = Callable[[], object]


def main() -> None:
    """Measure in turn; what fails is named and the rest goes on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measurement")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu/first.json"))
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    bandwidth = copy_bandwidth(device)
    found: dict[str, Any] = {"schema": "naslab.gpu-first/1", "copy_bytes_per_second": bandwidth}
    for part in (contrastive, masks, small_calls, altup_backward):
        rows: list[dict[str, Any]] = []
        found[part.__name__] = rows
        try:
            rows.extend(part(device, bandwidth, arguments.seconds))
        except Exception as error:  # noqa: BLE001 - whatever a first day brings, the other parts are still measured
            found[f"{part.__name__}_error"] = f"{type(error).__name__}: {error}"
        write_result(arguments.out, found, str(device))
        for row in rows:
            print({name: value for name, value in row.items() if not name.endswith("samples_ms")}, flush=True)


def contrastive(device: torch.device, bandwidth: float, seconds: float) -> Iterator[dict[str, Any]]:
    """NT-Xent of 8,192 rows (4,096 pairs), forward and backward, against eager; no product in float32 uses TF32."""
    pairs = 4096 if device.type == "cuda" else 64
    for dtype in (torch.float32, torch.bfloat16):
        for width in (128, 2048):
            a, b = (leaf(device, dtype, pairs, width) for _ in range(2))

            def step(a: Tensor = a, b: Tensor = b) -> None:
                torch.autograd.grad(nt_xent(a, b, 0.5), (a, b))

            yield {"kernel": "nt_xent", "shape": f"{2 * pairs}x{width}", "dtype": str(dtype)} | beside_eager(
                step, device, seconds
            )


def masks(device: torch.device, bandwidth: float, seconds: float) -> Iterator[dict[str, Any]]:
    """Gather and restore at a batch of 256, L = 196, 49 visible, D = 768: the backward alone, against its traffic."""
    batch, length, visible, width = (256 if device.type == "cuda" else 4), 196, 49, 768
    for dtype in (torch.float32, torch.bfloat16):
        mask = token_mask(torch.rand(batch, length, device=device), visible)
        tokens, positions = leaf(device, dtype, batch, length, width), leaf(device, dtype, length, width)
        kept, token = leaf(device, dtype, batch, visible, width), leaf(device, dtype, width)

        def gather(tokens: Tensor, positions: Tensor, mask: TokenMask = mask) -> Tensor:
            return gather_visible(tokens, mask, positions)

        def restore(kept: Tensor, token: Tensor, positions: Tensor, mask: TokenMask = mask) -> Tensor:
            return restore_tokens(kept, mask, token, positions)

        whole, shown = batch * length, batch * visible
        for name, leaves, function, moved in (
            ("gather_visible", (tokens, positions), gather, (shown, whole)),
            ("restore_tokens", (kept, token, positions), restore, (whole, shown)),
        ):
            limit_ms = mask_bytes(*moved, width, tokens.element_size()) / bandwidth * 1e3
            facts = {"kernel": f"{name} backward", "shape": f"{batch}x{visible}of{length}x{width}", "dtype": str(dtype)}
            measured = backward_beside_eager(function, leaves, device, seconds)
            yield facts | measured | {"limit_ms": limit_ms, "share": limit_ms / measured["ours_ms"]}


def small_calls(device: torch.device, bandwidth: float, seconds: float) -> Iterator[dict[str, Any]]:
    """Microseconds of the host for a call of each operation at its smallest size, forward alone and with backward."""
    seen = set()
    for case in cases(device, torch.float32):
        if case.kernel in seen:
            continue
        seen.add(case.kernel)
        row: dict[str, Any] = {"kernel": case.kernel, "shape": case.shape}
        for name in ("reference", "fused"):
            with switched(name):
                row[f"{name}_us"] = host_microseconds(case, device, backward=True)
                with torch.no_grad():
                    row[f"{name}_forward_us"] = host_microseconds(case, device, backward=False)
        yield row | {"ours_over_eager": row["fused_us"] / row["reference_us"]}


def altup_backward(device: torch.device, bandwidth: float, seconds: float) -> Iterator[dict[str, Any]]:
    """The backward of AltUp at 4 streams of 8,192 tokens of 2,048, by launch: block, rows and warps."""
    streams, tokens, width = (4, 8192, 2048) if device.type == "cuda" else (4, 32, 64)
    dtype = torch.bfloat16
    shapes = (streams, tokens, width), (tokens, width), (streams, streams), (streams,)
    leaves = tuple(leaf(device, dtype, *shape) for shape in shapes)
    result = altup(*leaves, active=0)
    grad = torch.ones_like(result)
    limit_ms = altup_bytes(streams, tokens, width, leaves[0].element_size(), backward=True) / bandwidth * 1e3

    def step() -> None:
        torch.autograd.grad(result, leaves, grad, retain_graph=True)

    with asked_launches() as asked:
        step()
    for name, default in asked.items():
        for choice in (default, *(c for c in candidates(default) if c != default)):
            row = {"launch": name, **vars(choice), "limit_ms": limit_ms}
            try:
                with trying(name, choice):
                    ms = measure_latency(
                        step, device, min_seconds=0.02, max_seconds=min(seconds, 0.1), clock=kernel_clock(device)
                    ).median
                yield row | {"ms": ms, "share": limit_ms / ms}
            except Exception as error:  # noqa: BLE001 - a launch may not fit the device, or not compile
                yield row | {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def leaf(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    """Normal numbers that want a gradient."""
    return torch.randn(shape, device=device).to(dtype).requires_grad_()


def beside_eager(step: Step, device: torch.device, seconds: float) -> dict[str, Any]:
    """Milliseconds of the step by the kernel clock, its reference and ours in turn."""

    def eager() -> None:
        with switched("reference"):
            step()

    def ours() -> None:
        with switched("fused"):
            step()

    return compared(eager, ours, device, seconds)


def backward_beside_eager(
    function: Callable[..., Tensor], leaves: tuple[Tensor, ...], device: torch.device, seconds: float
) -> dict[str, Any]:
    """The same of a backward alone, over one forward's graph."""
    steps = []
    for name in ("reference", "fused"):
        with switched(name):
            result = function(*leaves)
        grad = torch.ones_like(result)
        steps.append(lambda result=result, grad=grad: torch.autograd.grad(result, leaves, grad, retain_graph=True))
    return compared(*steps, device, seconds)


def compared(eager: Step, ours: Step, device: torch.device, seconds: float) -> dict[str, Any]:
    """Both medians, their ratio with its interval, and the raw samples."""
    found = compare_latency(
        eager, ours, device, min_seconds=min(0.1, seconds), max_seconds=seconds, clock=kernel_clock(device)
    )
    return {
        "eager_ms": found.a.median,
        "ours_ms": found.b.median,
        "eager_over_ours": found.ratio,
        "low": found.low,
        "high": found.high,
        "eager_samples_ms": [float(f"{ms:.5g}") for ms in found.a.samples_ms],
        "ours_samples_ms": [float(f"{ms:.5g}") for ms in found.b.samples_ms],
    }


def host_microseconds(case: Case, device: torch.device, backward: bool) -> float:
    """The host's time for a call, of many in a row, none waited for."""

    def call() -> None:
        result = case.step(*case.leaves)
        if backward:
            torch.autograd.grad(result, case.leaves, torch.ones_like(result))

    for _ in range(20):
        call()
    best = float("inf")
    for _ in range(3):
        synchronise(device)
        began = perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, (perf_counter() - began) / CALLS * 1e6)
    return best


if __name__ == "__main__":
    main()
