"""Ceilings: measured peak rates of a device, stored in the user's cache with the raw samples."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naslab.efficiency.device import device_name
from naslab.efficiency.provenance import Provenance
from naslab.errors import InputError
from naslab.kernels._cache import cache_folder, replace_file

SCHEMA = "naslab.calibration/1"
MATMUL, COPY, DISPATCH = "matmul", "copy", "dispatch"


@dataclass(frozen=True)
class Samples:
    """Raw seconds of one call of one probe, in order.

    `kind` is "matmul" (`size` is the side of the square matrices), "copy" (bytes read, and as many written) or
    "dispatch" (elements).
    """

    kind: str
    dtype: str
    size: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds of one call."""
        return float(np.median(self.seconds))

    @property
    def rate(self) -> float:
        """FLOP/s (a multiply-add is 2), bytes/s (read and written) or calls/s at the median."""
        return self.rate_at(50)

    def rate_at(self, percentile: float) -> float:
        """The rate of a call that takes this percentile of the seconds; the 10th is a fast one."""
        work = {MATMUL: 2.0 * self.size**3, COPY: 2.0 * self.size, DISPATCH: 1.0}
        return work[self.kind] / float(np.percentile(self.seconds, percentile))

    def to_dict(self) -> dict[str, Any]:
        """Plain values with the spread beside the samples."""
        p10, p90 = np.percentile(self.seconds, [10, 90])
        spread = {"median": self.median, "p10": float(p10), "p90": float(p90)}
        return {"kind": self.kind, "dtype": self.dtype, "size": self.size, **spread, "seconds": list(self.seconds)}


@dataclass(frozen=True)
class Ceilings:
    """What a device was measured to do at best.

    `flops_per_second` is by number format; on a GPU "float32" is without TF32 and "tf32" with it. `bytes_per_second`
    counts what a copy reads and writes. `dispatch_seconds` is the time that each operation of an eager model costs
    however little it computes. `tf32_allowed` is the setting of torch that was found, and left, there (None on a CPU).
    """

    device: str
    flops_per_second: Mapping[str, float]
    bytes_per_second: float
    dispatch_seconds: float
    tf32_allowed: bool | None
    samples: tuple[Samples, ...]
    provenance: Provenance

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the published schema."""
        return {
            "schema": SCHEMA,
            **vars(self),
            "flops_per_second": dict(self.flops_per_second),
            "samples": [samples.to_dict() for samples in self.samples],
            "provenance": self.provenance.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ceilings:
        """The inverse of `to_dict`.

        Raises:
            InputError: not a calibration; the message says what is wrong.
        """
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            raise InputError(f"not a document of schema {SCHEMA}")
        try:
            samples = tuple(
                Samples(s["kind"], s["dtype"], int(s["size"]), tuple(float(t) for t in s["seconds"]))
                for s in values["samples"]
            )
            return cls(
                str(values["device"]),
                {str(dtype): _positive(rate) for dtype, rate in values["flops_per_second"].items()},
                _positive(values["bytes_per_second"]),
                _positive(values["dispatch_seconds"]),
                values["tf32_allowed"],
                samples,
                Provenance.from_dict(values["provenance"]),
            )
        except KeyError as error:
            raise InputError(f"{error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(str(error)) from None

    def save(self) -> Path:
        """Write to the user's cache atomically, and return the file.

        Raises:
            InputError: the cache cannot be written.
        """
        path = _path(self.device, self.provenance.device_kind, self.provenance.torch_threads)
        try:
            replace_file(path, json.dumps(self.to_dict(), indent=1, allow_nan=False).encode())
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        return path

    @classmethod
    def load(cls, path: Path) -> Ceilings:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read or is no calibration.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, InputError) as error:
            raise InputError(
                f"{path}: not a usable calibration ({error}); `naslab devices calibrate` makes a new one"
            ) from None


def ceilings_path(device: torch.device) -> Path:
    """The file of the ceilings of `device`; on a CPU, of the present number of threads."""
    return _path(device_name(device), device.type, torch.get_num_threads())


def load_ceilings(device: torch.device) -> Ceilings | None:
    """The ceilings of `device` as last measured here, or None.

    Raises:
        InputError: there is a file, but a broken one.
    """
    path = ceilings_path(device)
    return Ceilings.load(path) if path.exists() else None


def refuse_unwritable(path: Path) -> None:
    """Find out before a long measurement whether its file can be written.

    Raises:
        InputError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _path(device: str, kind: str, threads: int) -> Path:
    name = f"{device} {threads} threads" if kind == "cpu" else device
    return cache_folder() / "devices" / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not a positive number")
    return float(value)
