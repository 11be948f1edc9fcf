"""The table of the kernels: each operation, forward and backward, against eager PyTorch, torch.compile and the memory.

Nothing is timed before it has been found correct at the same shapes. On CUDA times are read from the kernel clock, the
L2 cache flushed; elsewhere end to end. `limit_ms` is the operation's least traffic at
the copy bandwidth measured on this very device just before; on a CPU small tensors stay in its caches, so that a
share above 1 is possible there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from naslab.efficiency.clocks import Clock, kernel_clock
from naslab.efficiency.device import current
from naslab.efficiency.kernel_cases import Case, cases
from naslab.efficiency.latency import Comparison, compare_latency, measure_latency
from naslab.efficiency.provenance import collect_provenance, dtype_name
from naslab.kernels._dispatch import switched

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2.5e-2, torch.float16: 1e-2}
COPIED_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Row:
    """Median milliseconds of forward and backward; None where not measured. `share` is limit over ours.

    The ratios are of medians of calls in turn with ours, with a bootstrap interval (95 %): above 1, ours is faster.
    """

    kernel: str
    shape: str
    dtype: str
    eager_ms: float | None
    compile_ms: float | None
    ours_ms: float | None
    limit_ms: float
    share: float | None
    correct: bool
    eager_over_ours: dict[str, float] | None = None
    compile_over_ours: dict[str, float] | None = None
    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    """Raw samples of eager, ours (in turn with eager), and compile."""
    fused: bool = True
    """Whether ours is the kernel; else this size is below the crossover, and ours is eager PyTorch by choice."""


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
    chosen = cases(device, dtype, only)
    with current(device):
        clock, bandwidth = kernel_clock(device), copy_bandwidth(device)
        rows = [measure_case(case, device, clock, dtype, bandwidth, max_seconds, compiled) for case in chosen]
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
    latency = measure_latency(
        lambda: target.copy_(source), device, min_seconds=0.2, max_seconds=2, clock=kernel_clock(device)
    )
    return 2 * COPIED_BYTES / (latency.median / 1e3)


def measure_case(
    case: Case,
    device: torch.device,
    clock: Clock,
    dtype: torch.dtype,
    bandwidth: float,
    max_seconds: float,
    compiled: bool,
) -> Row:
    """One line of the table; see `kernel_table`."""
    limit_ms = case.traffic_bytes / bandwidth * 1e3
    facts = (case.kernel, case.shape, dtype_name(dtype))
    if not is_correct(case, dtype):
        return Row(*facts, None, None, None, limit_ms, None, False)

    def eager() -> None:
        with switched("reference"):
            _run(case.step, case.leaves)

    def ours() -> None:
        _run(case.step, case.leaves)

    def beside(other: Callable[[], None]) -> Comparison:
        return compare_latency(
            other, ours, device, min_seconds=min(0.2, max_seconds), max_seconds=max_seconds, clock=clock
        )

    with_eager, with_compiled = beside(eager), beside(compile_case(case)) if compiled else None
    ours_ms = with_eager.b.median
    timed = {"eager": with_eager.a, "ours": with_eager.b}
    if with_compiled is not None:
        timed["compile"] = with_compiled.a
    return Row(
        *facts,
        eager_ms=with_eager.a.median,
        compile_ms=None if with_compiled is None else with_compiled.a.median,
        ours_ms=ours_ms,
        limit_ms=limit_ms,
        share=limit_ms / ours_ms,
        correct=True,
        eager_over_ours=_ratio(with_eager),
        compile_over_ours=None if with_compiled is None else _ratio(with_compiled),
        fused=is_fused(case),
        samples_ms={name: [float(f"{ms:.5g}") for ms in latency.samples_ms] for name, latency in timed.items()},
    )


def _ratio(comparison: Comparison) -> dict[str, float]:
    return {"ratio": comparison.ratio, "low": comparison.low, "high": comparison.high}


class _Reached(TorchDispatchMode):
    """Notes whether a custom operation of this package runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func.name())
        self.found |= name.startswith("naslab::") and "match" not in name and "mask" not in name
        return func(*args, **(kwargs or {}))


def is_fused(case: Case) -> bool:
    """Whether a call of this size runs the kernel on this device."""
    reached = _Reached()
    with reached:
        case.step(*case.leaves)
    return reached.found


def compile_case(case: Case) -> Callable[[], None]:
    """The reference by torch.compile; compiled at the first call, which belongs to the warm-up."""
    torch.compiler.reset()
    step = torch.compile(case.step, fullgraph=True)

    def call() -> None:
        with switched("reference"):
            _run(step, case.leaves)

    return call


def _run(step: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> list[Tensor]:
    result = step(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, torch.ones_like(result))]


def time_ms(case: Case, device: torch.device, max_seconds: float) -> float:
    """Median milliseconds of one forward and backward, by the kernel clock: launches are not what is tuned."""
    return measure_latency(
        lambda: _run(case.step, case.leaves),
        device,
        min_seconds=min(0.1, max_seconds),
        max_seconds=max_seconds,
        clock=kernel_clock(device),
    ).median


def is_correct(case: Case, dtype: torch.dtype) -> bool:
    """Result and gradients within the dtype's tolerance (relative norm) of the reference in float64."""
    exact = tuple(leaf.detach().double().requires_grad_() for leaf in case.leaves)
    with switched("reference"):
        expected = _run(case.step, exact)
    with switched("fused"):
        actual = _run(case.step, case.leaves)
    least = [1.0 if case.cancels else 1e-30, *(1e-30 for _ in case.leaves)]
    errors = map(_error, actual, expected, least)
    return all(error <= TOLERANCE[dtype] for error in errors)


def _error(actual: Tensor, expected: Tensor, least: float) -> float:
    """Norm of the error, relative to that of the expected, or to `least` where that is more."""
    return float((actual.double() - expected).norm() / expected.norm().clamp(min=least))
