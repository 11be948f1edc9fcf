"""The parts of a profile's document, each made from a count or a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from naslab.efficiency.batch_sweep import WITHIN, sweep_batch_sizes
from naslab.efficiency.ceilings import load_ceilings
from naslab.efficiency.energy import measure_energy
from naslab.efficiency.errors import InputError
from naslab.efficiency.flops import FlopCount, Operation
from naslab.efficiency.inputs import Inputs, call_model, with_batch_size
from naslab.efficiency.kinds import KINDS
from naslab.efficiency.latency import Latency
from naslab.efficiency.memory_forecast import forecast
from naslab.efficiency.provenance import dtype_name
from naslab.efficiency.roofline import Roof, place
from naslab.efficiency.training_memory import training_memory
from naslab.efficiency.training_step import measure_training_step, training_step_function

TRAINING_PARTS = ("forward", "backward", "optimiser", "step")


def by_kind(forward: FlopCount, training: FlopCount | None) -> dict[str, dict[str, int]]:
    """Work of the forward by kind, and the backward's contractions beside it, in the order of `KINDS`."""
    rows = _rows(forward, training, lambda operation: operation.kind)
    return {kind: rows[kind] for kind in KINDS if kind in rows}


def by_operation(forward: FlopCount, training: FlopCount | None) -> dict[str, dict[str, Any]]:
    """The same by the operation's name, with its kind; the one with most FLOPs first."""
    counts = [forward] if training is None else [forward, training]
    kinds = {operation.name: operation.kind for counted in counts for operation in counted.operations}
    rows = _rows(forward, training, lambda operation: operation.name)
    names = sorted(rows, key=lambda name: (-rows[name]["flops"] - rows[name]["backward"], -rows[name]["bytes"], name))
    return {name: {"kind": kinds[name], **rows[name]} for name in names}


def _rows(forward: FlopCount, training: FlopCount | None, key: Callable[[Operation], str]) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}

    def row(operation: Operation) -> dict[str, int]:
        empty = {"flops": 0, "effective": 0, "pointwise": 0, "bytes": 0, "calls": 0, "backward": 0}
        return rows.setdefault(key(operation), empty)

    for operation in forward.operations:
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


def by_module(forward: FlopCount, training: FlopCount | None) -> dict[str, dict[str, int]]:
    """FLOPs of forward and backward of each module with its children; `effective` is of the forward."""
    backward = {} if training is None else training.backward_by_module
    return {
        name: {
            "forward": work.contraction,
            "backward": backward[name].contraction if name in backward else 0,
            "effective": work.effective,
        }
        for name, work in forward.by_module.items()
    }


def latency_part(latency: Latency) -> dict[str, Any]:
    """The distribution without its samples, `noisy` with it."""
    return {name: value for name, value in asdict(latency).items() if name != "samples_ms"}


def training_part(model: nn.Module, inputs: Inputs, max_seconds: float) -> dict[str, Any] | None:
    """Times (not on meta) and memory of a training step; None where there is nothing to train."""
    timed = None if _on_meta(inputs) else measure_training_step(model, inputs, max_seconds=max_seconds)
    held = training_memory(model, inputs)
    if held is None:
        return None
    parts = {} if timed is None else {name: getattr(timed, name) for name in TRAINING_PARTS}
    return {
        "latency_ms": {name: latency_part(part) for name, part in parts.items()},
        "samples_ms": {name: list(part.samples_ms) for name, part in parts.items()},
        "memory_bytes": asdict(held) | {"activations": held.activations},
    }


def energy_part(model: nn.Module, inputs: Inputs, device: torch.device, seconds: float) -> dict[str, Any]:
    """Joules of an inference and of a training step, or why there are none."""

    def infer() -> None:
        with torch.no_grad():
            call_model(model, inputs)

    step = training_step_function(model, inputs)
    return {
        "inference": asdict(measure_energy(infer, device, seconds=seconds)),
        "training_step": None if step is None else asdict(measure_energy(step, device, seconds=seconds)),
    }


def sweep_part(model: nn.Module, inputs: Inputs, sizes: Sequence[int], max_seconds: float) -> dict[str, Any]:
    """Throughput by batch size and the knee; the batches repeat the samples of the given one.

    Raises:
        InputError: not even the smallest batch fits.
    """
    try:
        swept = sweep_batch_sizes(model, lambda n: with_batch_size(inputs, n), sizes, max_seconds=max_seconds)
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


def roofline_part(forward: FlopCount, device: torch.device, latency: Latency | None) -> dict[str, Any] | None:
    """The position under the device's measured ceilings; None where there are none for the work's number formats."""
    ceilings = None if latency is None else load_ceilings(device)
    if ceilings is None or latency is None:
        return None
    roof = Roof.of(ceilings)
    needed = {dtype_name(operation.dtype) for operation in forward.operations if operation.work.contraction}
    if not needed <= roof.flops_per_second.keys():
        return None
    return place(forward, roof, latency.median / 1e3).to_dict()


def read_rows(rows: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Rows of `by_kind` and the like; a document of an earlier version has no `effective` and no `backward`."""
    for name, row in rows.items():
        work = row.get("flops", row.get("forward"))
        yield name, {**row, "effective": row.get("effective", work), "backward": row.get("backward")}


def _on_meta(inputs: Inputs) -> bool:
    return any(tensor.is_meta for tensor in torch.utils._pytree.tree_leaves(inputs) if isinstance(tensor, torch.Tensor))
