"""Memory forecast: what an untried batch will need, and the largest batch that fits on a device."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from naslab.efficiency.fused_on_meta import FusedOnMeta
from naslab.efficiency.gpus import find_gpu
from naslab.efficiency.inputs import (
    Inputs,
    batch_size,
    call_model,
    map_tensors,
    tensors_in,
    tensors_of,
    with_batch_size,
)
from naslab.efficiency.memory import LiveBytes
from naslab.efficiency.training_memory import training_memory
from naslab.efficiency.unwrap import eager
from naslab.errors import InputError

MOST_SAMPLES = 2**24
"""No larger batch is looked for."""


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes of tensors at the peak for the given batch and for the largest one that stays within the limit, which is 0
    (and its peak None) where not even the smallest does.
    """

    peak_bytes: int
    largest_batch: int
    largest_peak_bytes: int | None
    limit_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the given batch stays within the limit."""
        return self.peak_bytes <= self.limit_bytes


def forecast_peak_bytes(model: nn.Module, inputs: Inputs, batch: int, *, training: bool) -> int | None:
    """Peak bytes of tensors for a batch of another size, found on meta tensors: nothing of that size is allocated.

    The first dimension of every input tensor that has the given batch's size is set to `batch`. Kernels' workspace and
    the allocator's rounding are not in it. None where training was asked for and no output has a gradient.

    Raises:
        InputError: the model does not run on meta tensors; the reason is named.
    """
    return _peak(_on_meta(model), inputs, batch, training)


def largest_batch(model: nn.Module, inputs: Inputs, memory_bytes: int, *, training: bool) -> int:
    """The largest batch whose forecast stays within `memory_bytes`; 0 if not even the smallest does.

    Raises:
        InputError: the model does not run on meta tensors, or has nothing to train.
    """
    return forecast(model, inputs, memory_bytes, training=training).largest_batch


def forecast(model: nn.Module, inputs: Inputs, limit_bytes: int, *, training: bool) -> MemoryForecast:
    """The peak of the given batch, and the largest batch whose peak stays within `limit_bytes`.

    Raises:
        InputError: the model does not run on meta tensors, or has nothing to train.
    """
    twin = _on_meta(model)
    known: dict[int, int] = {}

    def peak(batch: int) -> int:
        if batch not in known:
            found = _peak(twin, inputs, batch, training)
            if found is None:
                raise InputError("memory forecast: the model has nothing to train")
            known[batch] = found
        return known[batch]

    given = batch_size(inputs)
    smallest = 2 if training else 1  # batch normalisation cannot train on one sample
    if peak(smallest) > limit_bytes:
        return MemoryForecast(peak(given) if given >= smallest else peak(smallest), 0, None, limit_bytes)
    largest = _largest(peak, smallest, limit_bytes)
    return MemoryForecast(peak(max(given, smallest)), largest, peak(largest), limit_bytes)


def memory_needs(model: nn.Module, inputs: Inputs) -> dict[str, int | None]:
    """Forecast bytes of this batch for "forward" and "training_step"; None where there is no forecast."""
    needs: dict[str, int | None] = {}
    for name, training in (("forward", False), ("training_step", True)):
        try:
            needs[name] = _peak(_on_meta(model), inputs, batch_size(inputs), training)
        except Exception:  # noqa: BLE001 - a forecast is extra: what does not run on meta has none
            needs[name] = None
    return needs


def memory_limit(text: str) -> int:
    """Bytes from "24GB" (10^9), "16GiB" (2^30), "800MB", or the memory of a device of the table ("h100").

    Raises:
        InputError: neither a size nor a known device.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?b)\s*", text.lower())
    if match is None:
        try:
            return find_gpu(text).memory_bytes
        except InputError:
            raise InputError(f"memory limit: {text!r} is no size such as 24GB or 16GiB, and no known device") from None
    base = 1024 if "i" in match[2] else 1000
    return round(float(match[1]) * math.pow(base, 1 + "kmgt".index(match[2][0])))


def _largest(peak: Callable[[int], int], smallest: int, limit: int) -> int:
    """Peaks grow almost in proportion, so the line through two of them leads close to the answer; where it misleads,
    each third step halves the range.
    """

    def crossing(low: int, high: int) -> int:
        return low + int((limit - peak(low)) * (high - low) / max(peak(high) - peak(low), 1))

    low, high = smallest, 2 * smallest
    while peak(high) <= limit:
        if high >= MOST_SAMPLES:
            return high
        low, high = high, min(max(crossing(low, high), high) + 1, 64 * high, MOST_SAMPLES)
    turn = 0
    while high - low > 1:
        middle = (low + high) // 2 if turn % 3 == 2 else min(max(crossing(low, high), low + 1), high - 1)
        low, high = (middle, high) if peak(middle) <= limit else (low, middle)
        turn += 1
    return low


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy on meta, made without copying the weights.

    Raises:
        InputError: it cannot be copied.
    """
    plain = eager(model)
    memo: dict[int, Tensor] = {}
    try:
        for tensor in tensors_of(plain):
            there = torch.empty_like(tensor, device="meta")
            trained = tensor.requires_grad
            memo[id(tensor)] = nn.Parameter(there, trained) if isinstance(tensor, nn.Parameter) else there
        return copy.deepcopy(plain, memo).to("meta")
    except (TypeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"memory forecast: the model cannot be copied to meta tensors: {reason}") from None


def _peak(twin: nn.Module, inputs: Inputs, batch: int, training: bool) -> int | None:
    wanted = with_batch_size(map_tensors(lambda tensor: tensor.to("meta"), inputs), batch)
    try:
        if training:
            with FusedOnMeta():
                split = training_memory(twin, wanted)
            return None if split is None else split.peak
        live = LiveBytes([*tensors_of(twin), *tensors_in(wanted)])
        with FusedOnMeta(), torch.no_grad(), live.watching():
            call_model(twin.eval(), wanted)
        return live.peak
    except (RuntimeError, NotImplementedError, ValueError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"memory forecast: the model does not run on meta tensors: {reason}") from None
