"""The profile of a model: what it computes, how long it takes, what it holds, and where that was measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from efficiency.ceilings import load_ceilings
from efficiency.cross_check import against_formula, against_fvcore
from efficiency.flops import FlopCount, count_forward, count_training_step
from efficiency.gpus import find_gpu
from efficiency.inputs import Inputs, batch_size, call_model, device_of, map_tensors
from efficiency.kinds import KINDS
from efficiency.latency import Latency, measure_latency
from efficiency.memory import parameter_bytes, peak_memory_bytes
from efficiency.provenance import Provenance, collect_provenance, dtype_name
from efficiency.roofline import Roof, place
from efficiency.targets import predict
from efficiency.training_memory import training_memory
from efficiency.training_step import measure_training_step
from efficiency.unwrap import eager, is_compiled

SCHEMA = "naslab.profile/1"


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
    latency; it, the latency and the peak memory are None on meta tensors, where nothing runs. `by_kind` holds FLOPs,
    pointwise FLOPs, bytes and calls of the forward; `by_module` FLOPs of forward and backward. `roofline` is None where
    the device has not been calibrated. `training` holds times and memory of a training step, where asked for.
    `predicted` is for figures of other devices, by device.
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
            "coverage": self.coverage,
            "uncovered": list(self.uncovered),
            "latency_ms": latency,
            "noisy": noisy,
            "samples_ms": samples,
            "throughput": self.throughput,
            "peak_memory_bytes": self.peak_memory_bytes,
            "roofline": None if self.roofline is None else dict(self.roofline),
            "cross_checks": [dict(check) for check in self.cross_checks],
            "training": None if self.training is None else dict(self.training),
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
        predict_for: devices of the table (`efficiency.gpus`) to predict times for.
        formula_flops: what a closed formula says of the forward's FLOPs; stands beside the count.

    Raises:
        InputError: the module hides its operations, or a device in `predict_for` is unknown.
    """
    eager(model)  # refuse before anything is measured
    device = device_of(model, example_input)
    inputs = map_tensors(lambda t: t.to(device, dtype if t.is_floating_point() else None), example_input)
    subject = model if dtype is None else copy.deepcopy(model).to(dtype)
    latency, peak = None, None
    if device.type != "meta":
        with _inference(subject), _same_random_state(device):
            latency = measure_latency(
                lambda: call_model(subject, inputs), device, min_seconds=min_seconds, max_seconds=max_seconds
            )
            peak = peak_memory_bytes(eager(subject), inputs)
    trained = _training(subject, inputs, device, max_seconds) if train else None
    forward, training = count_forward(subject, inputs), count_training_step(subject, inputs)
    counts = [forward] if training is None else [forward, training]
    size, precision = batch_size(inputs), _dtype_name(subject)
    return EfficiencyProfile(
        target=target or type(eager(model)).__name__,
        batch_size=size,
        dtype=precision,
        parameters=sum(p.numel() for p in subject.parameters()),
        parameter_bytes=parameter_bytes(subject),
        flops=_flops(forward, training),
        coverage=min(c.coverage for c in counts),
        uncovered=tuple(sorted({name for c in counts for name in c.uncovered})),
        latency_ms=latency,
        throughput=None if latency is None else 1e3 * size / latency.median,
        peak_memory_bytes=peak,
        provenance=collect_provenance(device, precision, "torch.compile" if is_compiled(model) else "eager"),
        bytes_moved=Bytes(forward.bytes_moved, None if training is None else training.bytes_moved),
        by_kind=_by_kind(forward),
        by_module=_by_module(forward, training),
        roofline=_roofline(forward, device, latency),
        cross_checks=_cross_checks(subject, inputs, forward, check, formula_flops),
        training=trained,
        predicted={find_gpu(name).name: predict(name, precision, forward, training) for name in predict_for},
    )


def _cross_checks(
    model: nn.Module, inputs: Inputs, forward: FlopCount, check: bool, formula_flops: int | None
) -> tuple[Mapping[str, Any], ...]:
    checks = [] if formula_flops is None else [against_formula(forward, formula_flops, "formula of the space")]
    if check:
        checks.append(against_fvcore(copy.deepcopy(model), inputs, forward))
    return tuple(one.to_dict() for one in checks)


def _training(model: nn.Module, inputs: Inputs, device: torch.device, max_seconds: float) -> dict[str, Any] | None:
    timed = None if device.type == "meta" else measure_training_step(model, inputs, max_seconds=max_seconds)
    held = training_memory(model, inputs)
    if held is None:
        return None
    parts = {} if timed is None else {name: asdict(getattr(timed, name)) for name in TRAINING_PARTS}
    return {
        "latency_ms": {name: {k: v for k, v in part.items() if k != "samples_ms"} for name, part in parts.items()},
        "samples_ms": {name: list(part["samples_ms"]) for name, part in parts.items()},
        "memory_bytes": asdict(held) | {"activations": held.activations},
    }


TRAINING_PARTS = ("forward", "backward", "optimiser", "step")


def _by_kind(forward: FlopCount) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        found = [operation for operation in forward.operations if operation.kind == kind]
        if found:
            rows[kind] = {
                "flops": sum(operation.work.contraction for operation in found),
                "pointwise": sum(operation.work.pointwise for operation in found),
                "bytes": sum(operation.bytes_moved for operation in found),
                "calls": len(found),
            }
    return rows


def _by_module(forward: FlopCount, training: FlopCount | None) -> dict[str, dict[str, int]]:
    backward = {} if training is None else training.backward_by_module
    return {
        name: {"forward": work.contraction, "backward": backward[name].contraction if name in backward else 0}
        for name, work in forward.by_module.items()
    }


def _roofline(forward: FlopCount, device: torch.device, latency: Latency | None) -> dict[str, Any] | None:
    ceilings = None if latency is None else load_ceilings(device)
    if ceilings is None or latency is None:
        return None
    roof = Roof.of(ceilings)
    needed = {dtype_name(operation.dtype) for operation in forward.operations if operation.work.contraction}
    if not needed <= roof.flops_per_second.keys():
        return None
    return place(forward, roof, latency.median / 1e3).to_dict()


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
    tensor = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = torch.get_default_dtype() if tensor is None else tensor.dtype
    return dtype_name(dtype)
