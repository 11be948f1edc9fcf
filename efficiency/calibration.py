"""Calibration: how fast this machine's device multiplies matrices, copies memory and dispatches operations.

Every probe is measured in turn, round after round until the time is up, so that a drift of the machine meets all alike.
A sample is the mean time of one call in a burst that is long enough for the clock; a probe's figure is the median of
its samples, and a number format's ceiling is its best matrix size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from naslab.efficiency.ceilings import COPY, DISPATCH, MATMUL, Ceilings, Samples, ceilings_path, load_ceilings
from naslab.efficiency.device import current, device_name, synchronise
from naslab.efficiency.kinds import ATTENTION, CONVOLUTION, EINSUM, GROUPED_CONVOLUTION, MATRIX_PRODUCT
from naslab.efficiency.provenance import collect_provenance, dtype_name

__all__ = ["Ceilings", "Samples", "calibrate", "ceilings_path", "load_ceilings", "tf32_allowed", "tf32_kinds"]

TF32 = "tf32"
SMALLEST_SIDE = 128
LARGEST_SIDE = {"cpu": 4096, "cuda": 16384}
SIDES_PER_DTYPE = 3
SHARE_OF_ONE_PRODUCT = 1 / 16
"""Most of the free memory that the three matrices of a product may take: all formats and sizes together, a third."""
COPY_BYTES = {"cpu": 2**29, "cuda": 2**31}
DISPATCH_CALLS = 1000
MIN_ROUNDS = 3


def calibrate(device: torch.device, *, seconds: float = 20.0) -> Ceilings:
    """Measure the ceilings of `device`.

    Args:
        seconds: sample for so long, and at least 3 rounds; finding out what fits comes before, in about half of it.
    """
    limit = seconds / 50  # of one call, so that an emulated format takes its small share, too
    with torch.no_grad(), current(device):
        probes = [*_matmul_probes(device, limit), _copy_probe(device), _dispatch_probe(device)]
        _sample(probes, device, seconds)
    samples = tuple(Samples(p.kind, p.dtype, p.size, tuple(p.seconds)) for p in probes)
    rates: dict[str, float] = {}
    for probe in samples:
        if probe.kind == MATMUL:
            rates[probe.dtype] = max(rates.get(probe.dtype, 0.0), probe.rate)
    copy, dispatch = samples[-2:]
    return Ceilings(
        device_name(device),
        rates,
        copy.rate,
        dispatch.median,
        tf32_allowed() if device.type == "cuda" else None,
        samples,
        collect_provenance(device, dtype=", ".join(rates), samples="samples of this document"),
    )


def tf32_allowed() -> bool:
    """Whether torch may round the inputs of a float32 matrix product to TF32 on a GPU."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def tf32_kinds() -> tuple[str, ...]:
    """The kinds of work in float32 that torch may do in TF32 on a GPU now; convolutions may unless it is forbidden."""
    convolutions = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    kinds = (CONVOLUTION, GROUPED_CONVOLUTION) if convolutions else ()
    return (*kinds, *((MATRIX_PRODUCT, EINSUM, ATTENTION) if tf32_allowed() else ()))


class _Probe:
    """One call to be timed, the number of calls in a burst, and the samples so far."""

    def __init__(self, kind: str, dtype: str, size: int, call: Callable[[], object], burst: int) -> None:
        self.kind, self.dtype, self.size, self.call, self.burst = kind, dtype, size, call, burst
        self.seconds: list[float] = []


def _sample(probes: list[_Probe], device: torch.device, seconds: float) -> None:
    start, rounds = perf_counter(), 0
    while rounds < MIN_ROUNDS or perf_counter() - start < seconds:
        for probe in probes:
            with tf32(probe.dtype == TF32, device):
                probe.seconds.append(_time(probe.call, device, probe.burst))
        rounds += 1


def _time(call: Callable[[], object], device: torch.device, burst: int) -> float:
    """Seconds of one call, as the mean of a burst that the device takes without a pause."""
    synchronise(device)
    start = perf_counter()
    for _ in range(burst):
        call()
    synchronise(device)
    return (perf_counter() - start) / burst


def _burst(seconds_of_one: float, limit: float) -> int:
    """As many calls as make a sample of a quarter of the limit, and at least one."""
    return max(1, min(DISPATCH_CALLS, round(limit / 4 / seconds_of_one)))


def _matmul_probes(device: torch.device, limit: float) -> Iterator[_Probe]:
    """The largest sides of each number format whose product stays below the limit."""
    held = _free_bytes(device) * SHARE_OF_ONE_PRODUCT
    for name, dtype in _formats(device).items():
        fitting: list[_Probe] = []
        side = SMALLEST_SIDE
        while side <= LARGEST_SIDE[device.type] and 3 * side**2 * dtype.itemsize <= held:
            call = _matmul(side, dtype, device)
            with tf32(name == TF32, device):
                _time(call, device, 1)  # the first product of a kind loads or generates its kernel
                took = _time(call, device, 1)
            fitting = [*fitting, _Probe(MATMUL, name, side, call, _burst(took, limit))][-SIDES_PER_DTYPE:]
            if 8 * took > limit:
                break
            side *= 2
        yield from fitting


def _formats(device: torch.device) -> dict[str, torch.dtype]:
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    formats = {dtype_name(kind): kind for kind in kinds}
    if device.type == "cuda" and torch.version.cuda and torch.cuda.get_device_capability(device) >= (8, 0):
        formats[TF32] = torch.float32
    return formats


def _matmul(side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    # Random data: a product of zeros draws less power and so runs at higher clocks than real work.
    generator = torch.Generator(device).manual_seed(side)
    a, b = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    into = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=into)


def _copy_probe(device: torch.device) -> _Probe:
    size = min(COPY_BYTES[device.type], _free_bytes(device) // 8)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    call = lambda: target.copy_(source)  # noqa: E731
    _time(call, device, 1)
    return _Probe(COPY, "uint8", size, call, 1)


def _dispatch_probe(device: torch.device) -> _Probe:
    a, b = torch.ones(1, device=device), torch.ones(1, device=device)
    into = torch.empty_like(a)
    return _Probe(DISPATCH, "float32", 1, lambda: torch.add(a, b, out=into), DISPATCH_CALLS)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


@contextmanager
def tf32(allowed: bool, device: torch.device) -> Iterator[None]:
    """TF32 of float32 products on a GPU on or off inside, as it was afterwards; for a CPU nothing is touched."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    newer = (matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = _own(newer)
    for part in newer:
        part.fp32_precision = "ieee"  # with which no older setting disagrees: torch refuses to read one that does
    older = torch.get_float32_matmul_precision()
    matmul.allow_tf32 = allowed  # sets the newer flag, too; by the newer alone, whoever reads the older gets an error
    try:
        yield
    finally:
        # The older setting is that of products on a CPU as well, which it would leave in TF32.
        torch.set_float32_matmul_precision(older)
        for part, precision in zip(newer, before, strict=True):
            part.fp32_precision = precision


def _own(parts: Sequence[Any]) -> list[str]:
    """What each says for itself: "none" where it follows a wider setting, which is what torch would say for it."""
    # That of mkldnn is left out: torch takes what is set there for the widest of all.
    wider: Sequence[Any] = (torch.backends, torch.backends.cudnn)
    kept = []
    for setting in wider:
        kept.append(setting.fp32_precision)
        setting.fp32_precision = "none"
    own = [part.fp32_precision for part in parts]
    for setting, precision in zip(wider, kept, strict=True):
        setting.fp32_precision = precision
    return own
