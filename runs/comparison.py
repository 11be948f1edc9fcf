"""Compares two models: timed alternately first, counted on copies afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from naslab import efficiency
from naslab.efficiency.inputs import batch_size as size_of_batch
from naslab.efficiency.inputs import call_model
from naslab.efficiency.latency import Comparison, Latency
from naslab.efficiency.memory import parameter_count, peak_memory_bytes
from naslab.efficiency.provenance import dtype_name
from naslab.efficiency.training_memory import training_memory
from naslab.efficiency.training_step import NoTrainingStep, training_step_function
from naslab.errors import InputError
from naslab.runs.commands.model_options import Precision
from naslab.runs.commands.ready_models import DTYPES, ready
from naslab.runs.targets import Target


def compare_models(
    a: str,
    b: str,
    batch_size: int | None,
    dtype: Precision,
    device: str,
    input_shape: str | None,
    max_seconds: float,
    train: bool,
) -> tuple[dict[str, Any], Comparison]:
    """The document of `naslab compare`, and the timed comparison in it.

    Raises:
        InputError: a target does not exist or does not run, or there is nothing to train.
    """
    models = [ready(target, batch_size, dtype, device, input_shape) for target in (a, b)]
    place = efficiency.resolve_device(device)
    first, second = (_step(model) if train else _inference(model) for model in models)
    with torch.no_grad():
        measured = efficiency.compare_latency(
            first, second, place, min_seconds=min(1.0, max_seconds), max_seconds=max_seconds
        )
    counts = [_costs(model, train) for model in models]
    samples = "samples_ms of a and b in this document"
    provenance = efficiency.collect_provenance(place, dtype_name(DTYPES[dtype]), samples=samples).to_dict()
    document = {
        "schema": "naslab.compare/1",
        "measured": "training step" if train else "inference",
        "clock": "end to end",
        "a": {"target": a} | counts[0] | _latency_document(measured.a),
        "b": {"target": b} | counts[1] | _latency_document(measured.b),
        "batch_size": size_of_batch(models[0].example_input),
        "ratio": {"median": measured.ratio, "low": measured.low, "high": measured.high},
        "noisy": measured.noisy,
        "provenance": provenance,
    }
    return document, measured


def _inference(model: Target) -> Callable[[], Any]:
    return lambda: call_model(model.model, model.example_input)


def _step(model: Target) -> Callable[[], Any]:
    try:
        return training_step_function(model.model, model.example_input)
    except NoTrainingStep as error:
        raise InputError(f"--train: {model.label} has nothing to train with this batch: {error}") from None


def _costs(model: Target, train: bool) -> dict[str, Any]:
    """What is counted: after the times, on copies."""
    network, inputs = model.model, model.example_input
    forward, step = efficiency.count_forward(network, inputs), efficiency.count_training_step(network, inputs)
    if train:
        held = training_memory(network, inputs)
        peak = None if held is None else held.peak
    else:
        with torch.no_grad():
            peak = peak_memory_bytes(network, inputs)
    counts = [forward] if step is None else [forward, step]
    return {
        "parameters": parameter_count(network),
        "flops": {
            "forward": forward.total,
            "training_step": None if step is None else step.total,
            "effective_forward": forward.work.effective,
        },
        "coverage": min(count.coverage for count in counts),
        "peak_memory_bytes": peak,
    }


def _latency_document(latency: Latency) -> dict[str, Any]:
    names = ("median", "p10", "q1", "q3", "p90", "low", "high")
    return {
        "latency_ms": {name: getattr(latency, name) for name in names},
        "samples_ms": list(latency.samples_ms),
    }
