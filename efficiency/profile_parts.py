"""The parts of a profile's document, each made from a count or a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from naslab.efficiency.batch_sweep import WITHIN, sweep_batch_sizes
from naslab.efficiency.calibration import tf32_kinds
from naslab.efficiency.ceilings import load_ceilings
from naslab.efficiency.clocks import Prepare, nothing
from naslab.efficiency.device import device_name
from naslab.efficiency.energy import measure_energy
from naslab.efficiency.flop_count import OUTSIDE, FlopCount, Operation
from naslab.efficiency.gpus import match_gpu
from naslab.efficiency.inputs import Inputs, with_batch_size
from naslab.efficiency.kinds import KINDS
from naslab.efficiency.latency import Latency
from naslab.efficiency.memory import parameter_count
from naslab.efficiency.memory_forecast import forecast
from naslab.efficiency.provenance import dtype_name
from naslab.efficiency.roofline import Roof, place
from naslab.efficiency.training_memory import training_peak
from naslab.efficiency.training_step import MakeOptimiser, NoTrainingStep, training_step_function, training_times
from naslab.efficiency.work import Work
from naslab.errors import InputError

TRAINING_PARTS = ("forward", "backward", "optimiser", "step")


def by_kind(forward: FlopCount | None, training: FlopCount | None) -> dict[str, dict[str, int]]:
    """Work of the forward by kind, and the backward's contractions beside it, in the order of `KINDS`."""
    rows = _rows(forward, training, lambda operation: operation.kind)
    return {kind: rows[kind] for kind in KINDS if kind in rows}


def by_operation(forward: FlopCount | None, training: FlopCount | None) -> dict[str, dict[str, Any]]:
    """The same by the operation's name, with its kind; the one with most FLOPs first."""
    counts = [count for count in (forward, training) if count is not None]
    kinds = {operation.name: operation.kind for counted in counts for operation in counted.operations}
    rows = _rows(forward, training, lambda operation: operation.name)
    names = sorted(rows, key=lambda name: (-rows[name]["flops"] - rows[name]["backward"], -rows[name]["bytes"], name))
    return {name: {"kind": kinds[name], **rows[name]} for name in names}


def _rows(
    forward: FlopCount | None, training: FlopCount | None, key: Callable[[Operation], str]
) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}

    def row(operation: Operation) -> dict[str, int]:
        empty = {"flops": 0, "effective": 0, "pointwise": 0, "bytes": 0, "calls": 0, "backward": 0}
        return rows.setdefault(key(operation), empty)

    for operation in () if forward is None else forward.operations:
        found, work = row(operation), operation.work
        found["flops"] += work.contraction
        found["effective"] += work.effective
        found["pointwise"] += work.pointwise
        found["bytes"] += operation.bytes_moved
        found["calls"] += 1
    for operation in () if training is None else training.operations:
        if operation.phase == "backward":
            row(operation)["backward"] += operation.work.contraction
    return rows


def by_module(
    forward: FlopCount | None,
    training: FlopCount | None,
    model: nn.Module,
    times: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """FLOPs of forward and backward of each module with its children; `effective` is of the forward, `own` what of
    it is in no child, so that `own` sums to the total. Beside them its parameters, the shape of its output, and its
    milliseconds where they were measured.
    """
    empty = Work()
    forwards, own = ({}, {}) if forward is None else (forward.by_module, forward.own_by_module("forward"))
    backward = {} if training is None else training.backward_by_module
    if OUTSIDE in own:
        forwards = {**forwards, OUTSIDE: own[OUTSIDE]}
    if training is not None and (rest := training.own_by_module("backward").get(OUTSIDE, empty)).contraction:
        forwards, backward = {OUTSIDE: empty, **forwards}, {**backward, OUTSIDE: rest}
    modules = dict(model.named_modules())
    shapes: Mapping[str, tuple[int, ...]] = {} if forward is None else forward.output_shapes
    return {
        name: {
            "forward": work.contraction,
            "backward": backward.get(name, empty).contraction,
            "effective": work.effective,
            "own": own.get(name, empty).contraction,
            "parameters": parameter_count(modules[name]) if name in modules else 0,
            "output_shape": list(shapes[name]) if name in shapes else None,
            "ms": times.get(name),
        }
        for name, work in forwards.items()
    }


def coverage_parts(forward: FlopCount | None, training: FlopCount | None) -> dict[str, Any]:
    """What of the operations had a formula: the least share of both counts, and the names of the others."""
    counts = [count for count in (forward, training) if count is not None]
    if not counts:
        return {"coverage": None, "coverage_by": {}, "uncovered": ()}
    return {
        "coverage": min(count.coverage for count in counts),
        "coverage_by": {name: min(count.coverage_by[name] for count in counts) for name in counts[0].coverage_by},
        "uncovered": tuple(sorted({name for count in counts for name in count.uncovered})),
    }


def latency_part(latency: Latency) -> dict[str, Any]:
    """The distribution without its samples, `noisy` with it."""
    return {name: value for name, value in asdict(latency).items() if name != "samples_ms"}


def training_part(
    model: nn.Module, inputs: Inputs, max_seconds: float, optimiser: MakeOptimiser = torch.optim.AdamW
) -> dict[str, Any]:
    """Times (not on meta) and memory of a training step. The model trains: its caller puts it back.

    Raises:
        NoTrainingStep: there is none; the reason is named.
    """
    timed = None if _on_meta(inputs) else training_times(model, inputs, optimiser=optimiser, max_seconds=max_seconds)
    held = training_peak(model, inputs, optimiser)
    parts = {} if timed is None else {name: getattr(timed, name) for name in TRAINING_PARTS}
    return {
        "latency_ms": {name: latency_part(part) for name, part in parts.items()},
        "samples_ms": {name: list(part.samples_ms) for name, part in parts.items()},
        "memory_bytes": asdict(held) | {"activations": held.activations},
    }


def energy_part(
    model: nn.Module, infer: Callable[[], Any], inputs: Inputs, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Joules of an inference and of a training step, or why there are none."""
    inference = asdict(measure_energy(infer, device, seconds=seconds))
    try:
        step = training_step_function(model, inputs)
    except NoTrainingStep:
        return {"inference": inference, "training_step": None}
    return {"inference": inference, "training_step": asdict(measure_energy(step, device, seconds=seconds))}


def sweep_part(
    model: nn.Module,
    inputs: Inputs,
    sizes: Sequence[int],
    max_seconds: float,
    before: Prepare = nothing,
    batch_dim: int = 0,
) -> dict[str, Any]:
    """Throughput by batch size and the knee; the batches repeat the samples of the given one along `batch_dim`.

    Raises:
        InputError: not even the smallest batch fits.
    """
    try:
        swept = sweep_batch_sizes(
            model, lambda n: with_batch_size(inputs, n, batch_dim), sizes, max_seconds=max_seconds, before=before
        )
    except MemoryError as error:
        raise InputError(f"batch sweep: {error}") from None
    rows = [
        {
            "batch_size": row.batch_size,
            "throughput": row.throughput,
            "latency_ms": latency_part(row.latency_ms),
            "samples_ms": list(row.latency_ms.samples_ms),
        }
        for row in swept.rows
    ]
    return {"rows": rows, "knee": swept.knee, "within": WITHIN, "out_of_memory": swept.out_of_memory}


def forecast_part(model: nn.Module, inputs: Inputs, limit_bytes: int) -> dict[str, Any]:
    """The forecast for inference and for a training step with AdamW, or why there is none."""
    found: dict[str, Any] = {"limit_bytes": limit_bytes}
    for name, training in (("inference", False), ("training_step", True)):
        try:
            made = forecast(model, inputs, limit_bytes, training=training)
            found[name] = asdict(made) | {"fits": made.fits, "refused": None}
        except InputError as error:
            nothing = {"peak_bytes": None, "largest_batch": None, "largest_peak_bytes": None, "fits": None}
            found[name] = nothing | {"refused": str(error)}
    return found


def roofline_part(forward: FlopCount | None, device: torch.device, latency: Latency | None) -> dict[str, Any] | None:
    """The position under the device's measured ceilings; None where there are none for the work's number formats."""
    ceilings = None if latency is None else load_ceilings(device)
    if ceilings is None or latency is None or forward is None:
        return None
    roof = Roof.of(ceilings, tf32_kinds() if device.type == "cuda" else ())
    needed = {dtype_name(operation.dtype) for operation in forward.operations if operation.work.contraction}
    if not needed <= roof.flops_per_second.keys():
        return None
    return place(forward, roof, latency.median / 1e3).to_dict()


def achieved_part(
    forward: FlopCount | None, device: torch.device, dtype: str, latency: Latency | None
) -> dict[str, Any] | None:
    """FLOPs a second at the median latency, and their share of the device's peak for the number format (MFU), by its
    calibration or else its data sheet; the share is None where no peak is known.
    """
    if forward is None or latency is None:
        return None
    rate = forward.total / (latency.median / 1e3)
    measured = load_ceilings(device)
    known = measured or match_gpu(device_name(device))
    peak = None if known is None else Roof.of(known).flops_per_second.get(dtype)
    basis = None if peak is None else "measured" if measured else "data sheet"
    return {"flops_per_second": rate, "peak_flops_per_second": peak, "peak": basis, "share": peak and rate / peak}


def read_rows(rows: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Rows of `by_kind` and the like; a document of an earlier version has no `effective` and no `backward`."""
    for name, row in rows.items():
        work = row.get("flops", row.get("forward"))
        yield name, {**row, "effective": row.get("effective", work), "backward": row.get("backward")}


def _on_meta(inputs: Inputs) -> bool:
    return any(tensor.is_meta for tensor in torch.utils._pytree.tree_leaves(inputs) if isinstance(tensor, torch.Tensor))
