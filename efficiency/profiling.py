"""The profile of a model: what it computes, how long it takes, what it holds, and where that was measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from naslab.efficiency import profile_parts as parts
from naslab.efficiency.clocks import END_TO_END, Clock, clock_named
from naslab.efficiency.cross_check import against_formula, against_fvcore
from naslab.efficiency.errors import InputError
from naslab.efficiency.flops import FlopCount, count_forward, count_training_step
from naslab.efficiency.frames import frame
from naslab.efficiency.gpus import find_gpu
from naslab.efficiency.inputs import Inputs, batch_size, call_model, device_of, map_tensors
from naslab.efficiency.latency import Latency, measure_latency
from naslab.efficiency.memory import parameter_bytes, parameter_count, peak_memory, quantised_weights
from naslab.efficiency.provenance import Provenance, collect_provenance, dtype_name
from naslab.efficiency.resident_memory import Rebuild, resident_memory
from naslab.efficiency.targets import predict
from naslab.efficiency.unwrap import eager, is_compiled

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "naslab.profile/1"
HERE = "samples_ms of this document"
"""Where a profile's raw samples are until they are written to a file."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of the whole batch, a multiply-add is 2.

    `forward`, `training_step` (forward and backward) and `effective_forward` count contractions: matrix products,
    convolutions, attention, recurrent layers. The `_pointwise` fields count everything else. `effective_forward` leaves
    out what a causal mask throws away. Training figures are None where the model has nothing to train.
    """

    forward: int
    training_step: int | None
    effective_forward: int
    forward_pointwise: int
    training_step_pointwise: int | None


@dataclass(frozen=True)
class Bytes:
    """Bytes that all operations move, each reading its arguments and writing its results once."""

    forward: int
    training_step: int | None


@dataclass(frozen=True)
class EfficiencyProfile:
    """What one model costs for one batch; `to_dict` is the public `profile` document.

    `coverage` is the share of executed operations, by output elements, that had a formula, in the forward or the
    training step, whichever is less; `uncovered` names the rest. `throughput` is samples per second at the median
    latency; it, the latency and the peak memory are None on meta tensors, where nothing runs. `by_kind` and
    `by_operation` hold FLOPs, effective FLOPs, pointwise FLOPs, bytes and calls of the forward, and FLOPs of the
    backward; `by_module` FLOPs of forward and backward. `roofline` is None where the device has not been calibrated.
    `clock` is what every time is read from, but for those in `clocks`, by clock. `memory` is the peak as the allocator
    and the operating system see it. `training`, `energy`, `batch_sweep` and `memory_forecast` are there where asked
    for. `predicted` is for figures of other devices, by device.
    """

    target: str
    batch_size: int
    dtype: str
    parameters: int
    parameter_bytes: int
    flops: Flops
    coverage: float
    uncovered: tuple[str, ...]
    latency_ms: Latency | None
    throughput: float | None
    peak_memory_bytes: int | None
    provenance: Provenance
    bytes_moved: Bytes
    by_kind: Mapping[str, Mapping[str, int]]
    by_module: Mapping[str, Mapping[str, int]]
    roofline: Mapping[str, Any] | None = None
    cross_checks: tuple[Mapping[str, Any], ...] = ()
    training: Mapping[str, Any] | None = None
    predicted: Mapping[str, Any] = field(default_factory=dict)
    by_operation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clock: str = END_TO_END
    clocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    memory: Mapping[str, int | None] = field(default_factory=dict)
    energy: Mapping[str, Any] | None = None
    batch_sweep: Mapping[str, Any] | None = None
    memory_forecast: Mapping[str, Any] | None = None

    def frame(self, by: str = "kind") -> pd.DataFrame:
        """This profile as a pandas frame, see `naslab.efficiency.frame`."""
        return frame([self], by)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with `schema`, as docs/schemas/profile.json describes them."""
        latency = None if self.latency_ms is None else asdict(self.latency_ms)
        samples = [] if latency is None else list(latency.pop("samples_ms"))
        noisy = False if latency is None else latency.pop("noisy")
        return {
            "schema": SCHEMA,
            "target": self.target,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "parameters": self.parameters,
            "parameter_bytes": self.parameter_bytes,
            "flops": asdict(self.flops),
            "bytes_moved": asdict(self.bytes_moved),
            "by_kind": {kind: dict(cost) for kind, cost in self.by_kind.items()},
            "by_module": {name: dict(flops) for name, flops in self.by_module.items()},
            "by_operation": {name: dict(cost) for name, cost in self.by_operation.items()},
            "coverage": self.coverage,
            "uncovered": list(self.uncovered),
            "clock": self.clock,
            "latency_ms": latency,
            "noisy": noisy,
            "samples_ms": samples,
            "clocks": {name: dict(times) for name, times in self.clocks.items()},
            "throughput": self.throughput,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory": dict(self.memory),
            "roofline": _optional(self.roofline),
            "cross_checks": [dict(check) for check in self.cross_checks],
            "training": _optional(self.training),
            "energy": _optional(self.energy),
            "batch_sweep": _optional(self.batch_sweep),
            "memory_forecast": _optional(self.memory_forecast),
            "predicted": dict(self.predicted),
            "provenance": self.provenance.to_dict(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> EfficiencyProfile:
        """The inverse of `to_dict`.

        Raises:
            ValueError: another schema.
        """
        if document.get("schema") != SCHEMA:
            raise ValueError(f"schema {document.get('schema')!r} is not {SCHEMA!r}")
        values = {key: value for key, value in document.items() if key not in ("schema", "noisy", "samples_ms")}
        samples, timed = tuple(document["samples_ms"]), document["latency_ms"]
        latency = None if timed is None else Latency(samples, noisy=document["noisy"], **timed)
        return cls(
            **values
            | {
                "flops": Flops(**document["flops"]),
                "uncovered": tuple(document["uncovered"]),
                "latency_ms": latency,
                "bytes_moved": Bytes(**document["bytes_moved"]),
                "cross_checks": tuple(document["cross_checks"]),
                "provenance": Provenance.from_dict(document["provenance"]),
            }
        )


def profile(
    model: nn.Module,
    example_input: Inputs,
    *,
    target: str = "",
    dtype: torch.dtype | None = None,
    min_seconds: float = 0.5,
    max_seconds: float = 10.0,
    check: bool = False,
    train: bool = False,
    clocks: Sequence[str] = (),
    energy_seconds: float = 0.0,
    batch_sizes: Sequence[int] = (),
    memory_limit_bytes: int | None = None,
    rebuild: Rebuild | None = None,
    predict_for: Sequence[str] = (),
    formula_flops: int | None = None,
) -> EfficiencyProfile:
    """Profile inference of `model` on `example_input`, and count its training step.

    The model, its mode and torch's random state are afterwards as before. Time is measured first, by itself. A model
    on meta tensors is counted only.

    Args:
        example_input: a batch: one tensor, a tuple of positional or a mapping of keyword arguments; moved to the
            model's device.
        target: what the profile calls the model; its class when left out.
        dtype: cast floating-point parameters, buffers and inputs (in a copy) to this first.
        min_seconds: time at least as long.
        max_seconds: time no longer; the profile says `noisy` if the median is then known to less than 5 %.
        check: count the forward with fvcore, too.
        train: time a training step with AdamW (but not on meta), and account for its memory.
        clocks: time by these, too ("kernel" and "graph" need CUDA; see `naslab.efficiency.clocks`).
        energy_seconds: measure the energy of an inference and of a training step, each for so long; 3 is enough.
        batch_sizes: time inference at each of these, too, for `max_seconds` in all.
        memory_limit_bytes: forecast the largest batch that stays within it.
        rebuild: makes model and inputs anew on the CPU, so that the resident memory of a fresh process is measured.
        predict_for: devices of the table (`naslab.efficiency.gpus`) to predict times for.
        formula_flops: what a closed formula says of the forward's FLOPs; stands beside the count.

    Raises:
        InputError: the module hides its operations, a device in `predict_for` is unknown, or something that has to run
            was asked for on meta tensors or on a device that cannot do it.
    """
    eager(model)  # refuse before anything is measured
    device = device_of(model, example_input)
    wanted = _clocks(clocks, device)
    if device.type == "meta" and (energy_seconds or batch_sizes or rebuild is not None):
        raise InputError("profile: energy, batch sweep and resident memory need a device that runs the model, not meta")
    inputs = map_tensors(lambda t: t.to(device, dtype if t.is_floating_point() else None), example_input)
    subject = model if dtype is None else copy.deepcopy(model).to(dtype)
    latency, sweep, energy, peak, reserved = None, None, None, None, None
    others: dict[str, Any] = {}
    if device.type != "meta":
        with _inference(subject), _same_random_state(device):
            latency, others = _latencies(subject, inputs, device, wanted, min_seconds, max_seconds)
            sweep = parts.sweep_part(subject, inputs, batch_sizes, max_seconds) if batch_sizes else None
            energy = parts.energy_part(subject, inputs, device, energy_seconds) if energy_seconds else None
            peak, reserved = peak_memory(eager(subject), inputs)
    resident = None if rebuild is None else resident_memory(rebuild)
    trained = parts.training_part(subject, inputs, max_seconds) if train else None
    forward, training = count_forward(subject, inputs), count_training_step(subject, inputs)
    counts = [forward] if training is None else [forward, training]
    size, precision = batch_size(inputs), _dtype_name(subject)
    return EfficiencyProfile(
        target=target or type(eager(model)).__name__,
        batch_size=size,
        dtype=precision,
        parameters=parameter_count(subject),
        parameter_bytes=parameter_bytes(subject),
        flops=_flops(forward, training),
        coverage=min(c.coverage for c in counts),
        uncovered=tuple(sorted({name for c in counts for name in c.uncovered})),
        latency_ms=latency,
        throughput=None if latency is None else 1e3 * size / latency.median,
        peak_memory_bytes=peak,
        provenance=collect_provenance(device, precision, "torch.compile" if is_compiled(model) else "eager", HERE),
        bytes_moved=Bytes(forward.bytes_moved, None if training is None else training.bytes_moved),
        by_kind=parts.by_kind(forward, training),
        by_module=parts.by_module(forward, training),
        by_operation=parts.by_operation(forward, training),
        roofline=parts.roofline_part(forward, device, latency),
        cross_checks=_cross_checks(subject, inputs, forward, check, formula_flops),
        training=trained,
        clocks=others,
        memory={
            "allocated_bytes": peak,
            "reserved_bytes": reserved,
            "resident_bytes": None if resident is None else resident.peak,
            "resident_growth_bytes": None if resident is None else resident.growth,
        },
        energy=energy,
        batch_sweep=sweep,
        memory_forecast=None
        if memory_limit_bytes is None
        else parts.forecast_part(subject, inputs, memory_limit_bytes),
        predicted={find_gpu(name).name: predict(name, precision, forward, training) for name in predict_for},
    )


def _cross_checks(
    model: nn.Module, inputs: Inputs, forward: FlopCount, check: bool, formula_flops: int | None
) -> tuple[Mapping[str, Any], ...]:
    checks = [] if formula_flops is None else [against_formula(forward, formula_flops, "formula of the space")]
    if check:
        checks.append(against_fvcore(copy.deepcopy(model), inputs, forward))
    return tuple(one.to_dict() for one in checks)


def _latencies(
    model: nn.Module,
    inputs: Inputs,
    device: torch.device,
    clocks: Sequence[Clock],
    min_seconds: float,
    max_seconds: float,
) -> tuple[Latency, dict[str, Any]]:
    """By the host's clock, and by the others."""

    def measured(clock: Clock | None = None) -> Latency:
        return measure_latency(
            lambda: call_model(model, inputs), device, min_seconds=min_seconds, max_seconds=max_seconds, clock=clock
        )

    latency = measured()
    others: dict[str, Any] = {}
    for clock in clocks:
        timed = measured(clock)
        others[clock.name] = parts.latency_part(timed) | {"samples_ms": list(timed.samples_ms)}
    return latency, others


def _clocks(names: Sequence[str], device: torch.device) -> list[Clock]:
    return [clock_named(name, device) for name in dict.fromkeys(names) if name != END_TO_END]


def _optional(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if part is None else dict(part)


def _flops(forward: FlopCount, training: FlopCount | None) -> Flops:
    return Flops(
        forward=forward.total,
        training_step=None if training is None else training.total,
        effective_forward=forward.work.effective,
        forward_pointwise=forward.work.pointwise,
        training_step_pointwise=None if training is None else training.work.pointwise,
    )


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _same_random_state(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _dtype_name(model: nn.Module) -> str:
    held = [*model.parameters(), *quantised_weights(model)]
    tensor = next((p for p in held if p.is_floating_point() or p.is_quantized), None)
    dtype = torch.get_default_dtype() if tensor is None else tensor.dtype
    return dtype_name(dtype)
