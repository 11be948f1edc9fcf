"""The profile of a model as a record: computation, time, memory, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from naslab.efficiency.clocks import END_TO_END
from naslab.efficiency.frames import frame
from naslab.efficiency.latency import Latency
from naslab.efficiency.provenance import Provenance

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
    out what a causal mask throws away. What could not be counted is None.
    """

    forward: int | None
    training_step: int | None
    effective_forward: int | None
    forward_pointwise: int | None
    training_step_pointwise: int | None


@dataclass(frozen=True)
class Bytes:
    """Bytes that all operations move, each reading its arguments and writing its results once."""

    forward: int | None
    training_step: int | None


@dataclass(frozen=True)
class EfficiencyProfile:
    """What one model costs for one batch; `to_dict` is the public `profile` document.

    Every figure stands alone: what fails is None, and `missing` has its name and the reason.
    `coverage` is the share of executed operations that had a formula, by their number, their elements or their bytes
    (`coverage_by`), in the forward or the training step, whichever is least; `uncovered` names the rest, and every
    FLOP figure is then a lower bound. `throughput` is samples per second at the median
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
    coverage: float | None
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
    coverage_by: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    achieved: Mapping[str, Any] | None = None
    autocast: str | None = None

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
            "autocast": self.autocast,
            "parameters": self.parameters,
            "parameter_bytes": self.parameter_bytes,
            "flops": asdict(self.flops),
            "bytes_moved": asdict(self.bytes_moved),
            "by_kind": {kind: dict(cost) for kind, cost in self.by_kind.items()},
            "by_module": {name: dict(flops) for name, flops in self.by_module.items()},
            "by_operation": {name: dict(cost) for name, cost in self.by_operation.items()},
            "coverage": self.coverage,
            "coverage_by": dict(self.coverage_by),
            "uncovered": list(self.uncovered),
            "missing": dict(self.missing),
            "clock": self.clock,
            "latency_ms": latency,
            "noisy": noisy,
            "samples_ms": samples,
            "clocks": {name: dict(times) for name, times in self.clocks.items()},
            "throughput": self.throughput,
            "achieved": _optional(self.achieved),
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


def _optional(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if part is None else dict(part)
