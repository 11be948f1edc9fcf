"""The roofline: the minimum time of the counted work under a device's ceilings (Williams et al. 2009).

Each operation takes at least its contractions at the ceiling for products, and its bytes at the ceiling for copies;
whichever is longer bounds it. The bounds of all operations add up, because they run one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from naslab.efficiency.ceilings import Ceilings
from naslab.efficiency.flop_count import FlopCount, Operation
from naslab.efficiency.gpus import DeviceSpec
from naslab.efficiency.provenance import dtype_name
from naslab.errors import InputError


@dataclass(frozen=True)
class Roof:
    """Two ceilings of a device: FLOPs per second by number format, and bytes per second read and written together."""

    device: str
    flops_per_second: Mapping[str, float]
    bytes_per_second: float
    measured: bool
    tf32: tuple[str, ...] = ()
    """The kinds of work whose float32 may be rounded to TF32, and so has its ceiling."""

    @classmethod
    def of(cls, source: Ceilings | DeviceSpec, tf32: Iterable[str] = ()) -> Roof:
        """Of a calibrated device, or of a data sheet (then `measured` is false)."""
        if isinstance(source, Ceilings):
            return cls(source.device, source.flops_per_second, source.bytes_per_second, measured=True, tf32=tuple(tf32))
        return cls(source.label, source.peak_flops, source.bandwidth_bytes_per_second, measured=False)

    def peak(self, dtype: str) -> float:
        """FLOPs per second for products in the number format `dtype`.

        Raises:
            InputError: the device's ceiling for that format is not known.
        """
        if dtype not in self.flops_per_second:
            known = ", ".join(self.flops_per_second)
            raise InputError(f"{self.device}: no ceiling for {dtype} is known; known are {known}")
        return self.flops_per_second[dtype]

    def peak_of(self, operation: Operation) -> float:
        """FLOPs per second for the contractions of an operation, by its number format as this device multiplies it.

        Raises:
            InputError: as for `peak`.
        """
        dtype = dtype_name(operation.dtype)
        rounded = dtype == "float32" and operation.kind in self.tf32 and "tf32" in self.flops_per_second
        return self.peak("tf32" if rounded else dtype)

    def seconds(self, operation: Operation) -> float:
        """The least time of one operation."""
        return max(self.compute_seconds(operation), operation.bytes_moved / self.bytes_per_second)

    def compute_seconds(self, operation: Operation) -> float:
        """The least time of its contractions."""
        contraction = operation.work.contraction
        return contraction / self.peak_of(operation) if contraction else 0.0


@dataclass(frozen=True)
class Position:
    """Where a counted run stands under a roof.

    `intensity` is FLOPs of contractions per byte moved; left of `ridge` the copies bound, right of it the products.
    `bound_seconds` is the least time; `explained` its share of the measured time, None where nothing was measured.
    """

    roof: Roof
    flops: int
    bytes_moved: int
    bound_seconds: float
    compute_bound_share: float
    bound_by_kind: Mapping[str, float]
    explained: float | None
    ridge: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes_moved if self.bytes_moved else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the `profile` document."""
        return {
            "device": self.roof.device,
            "ceilings": "measured" if self.roof.measured else "data sheet",
            "intensity": self.intensity,
            "ridge": self.ridge,
            "peak_flops_per_second": self.ridge * self.roof.bytes_per_second,
            "bytes_per_second": self.roof.bytes_per_second,
            "bound_ms": 1e3 * self.bound_seconds,
            "compute_bound_share": self.compute_bound_share,
            "bound_ms_by_kind": {kind: 1e3 * seconds for kind, seconds in self.bound_by_kind.items()},
            "explained": self.explained,
        }


def place(counted: FlopCount, roof: Roof, measured_seconds: float | None = None) -> Position:
    """The position of a counted run under `roof`.

    Args:
        measured_seconds: how long the run took on that device.

    Raises:
        InputError: no ceiling is known for a number format that the run multiplies in.
    """
    by_kind: dict[str, float] = defaultdict(float)
    compute_bound = 0.0
    for operation in counted.operations:
        seconds = roof.seconds(operation)
        by_kind[operation.kind] += seconds
        if seconds and roof.compute_seconds(operation) == seconds:
            compute_bound += seconds
    bound = sum(by_kind.values())
    main = max((o for o in counted.operations if o.work.contraction), key=lambda o: o.work.contraction, default=None)
    return Position(
        roof=roof,
        flops=counted.total,
        bytes_moved=counted.bytes_moved,
        bound_seconds=bound,
        compute_bound_share=compute_bound / bound if bound else 0.0,
        bound_by_kind=dict(by_kind),
        explained=None if measured_seconds is None else bound / measured_seconds,
        ridge=0.0 if main is None else roof.peak_of(main) / roof.bytes_per_second,
    )
