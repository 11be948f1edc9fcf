"""`profile`: what a model costs. Time first, count afterwards on copies, so that counting disturbs nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efficiency.flops import count_forward, count_training_step
from efficiency.latency import measure_latency
from efficiency.memory import peak_memory_bytes
from efficiency.provenance import collect_provenance

SCHEMA = "naslab.profile/1"


@dataclass(frozen=True)
class EfficiencyProfile:
    """Cost of one model at one batch size. FLOPs are for the whole batch, a multiply-add is two.

    `flops` has `forward`, `training_step` (forward and backward) and `effective_forward` (executed work less what
    is masked; equal to `forward` for dense models). `latency_ms` is of a forward in evaluation mode: median, p10,
    p90, and the 95 % interval of the median. `throughput` is in samples per second.
    """

    target: str
    batch_size: int
    dtype: str
    parameters: int
    flops: Mapping[str, int]
    coverage: float
    uncovered: tuple[str, ...]
    latency_ms: Mapping[str, float]
    noisy: bool
    samples_ms: tuple[float, ...]
    throughput: float
    peak_memory_bytes: int
    provenance: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The document of `naslab profile --json`."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "parameters": self.parameters,
            "flops": dict(self.flops),
            "coverage": self.coverage,
            "uncovered": list(self.uncovered),
            "latency_ms": dict(self.latency_ms),
            "noisy": self.noisy,
            "samples_ms": list(self.samples_ms),
            "throughput": self.throughput,
            "peak_memory_bytes": self.peak_memory_bytes,
            "predicted": {},
            "provenance": dict(self.provenance),
        }


def profile(
    model: nn.Module, example_input: Tensor, *, target: str = "", max_seconds: float = 2.0
) -> EfficiencyProfile:
    """Profile `model` on the device where it and `example_input` are; the model is left as it was.

    Args:
        example_input: one batch; its first dimension is the batch size.
        target: what to call the model in tables.
        max_seconds: bound on the timing.
    """
    device = example_input.device
    was_training = model.training
    model.eval()

    def forward() -> Any:
        with torch.no_grad():
            return model(example_input)

    latency = measure_latency(forward, device, max_seconds=max_seconds)
    provenance = collect_provenance(device).to_dict()
    resident = [*itertools.chain(model.parameters(), model.buffers()), example_input]
    peak = peak_memory_bytes(forward, resident, device)
    model.train(was_training)
    forward_count, step_count = count_forward(model, example_input), count_training_step(model, example_input)
    batch_size = len(example_input)
    return EfficiencyProfile(
        target=target or type(model).__name__,
        batch_size=batch_size,
        dtype=str(example_input.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in model.parameters()),
        flops={
            "forward": forward_count.total,
            "training_step": step_count.total,
            "effective_forward": forward_count.total,
        },
        coverage=min(forward_count.coverage, step_count.coverage),
        uncovered=tuple(sorted({*forward_count.uncovered, *step_count.uncovered})),
        latency_ms={name: getattr(latency, name) for name in ("median", "p10", "p90", "low", "high")},
        noisy=latency.noisy,
        samples_ms=latency.samples_ms,
        throughput=1000 * batch_size / latency.median,
        peak_memory_bytes=peak,
        provenance=provenance,
    )
