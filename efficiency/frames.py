"""Profiles as pandas frames: one row for each kind of work, module or operation of each profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from naslab.efficiency.profile_parts import read_rows
from naslab.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


class Profiled(Protocol):
    """What has a profile's document."""

    def to_dict(self) -> dict[str, Any]:
        """The document."""


LEVELS = ("profile", "kind", "module", "operation")


def frame(profiles: Iterable[Profiled], by: str = "kind") -> pd.DataFrame:
    """A frame of profiles.

    Every row begins with target, batch size, number format and device, and ends with the rest of the provenance.

    Args:
        by: "profile" for one row each (FLOPs, times, memory), "kind", "module" or "operation" for one row for each of
            theirs (`flops`, `effective`, `pointwise`, `bytes`, `calls` of the forward; `backward`: its FLOPs).

    Raises:
        InputError: another `by`.
    """
    import pandas as pd

    if by not in LEVELS:
        raise InputError(f"frame: by {by!r} is unknown; use {', '.join(LEVELS)}")
    return pd.DataFrame([row for profile in profiles for row in rows(profile, by)])


def rows(profile: Profiled, by: str) -> Iterable[dict[str, Any]]:
    """The rows of one profile, as `frame` has them."""
    document = profile.to_dict()
    facts = {name: document[name] for name in ("target", "batch_size", "dtype")}
    facts["device"] = document["provenance"]["device"]
    where = provenance_columns(document["provenance"])
    if by == "profile":
        yield facts | _figures(document) | where
        return
    named: Mapping[str, Mapping[str, Any]] = document[f"by_{by}"]
    for name, row in read_rows(named):
        renamed = {"flops" if key == "forward" else key: value for key, value in row.items()}
        yield facts | {by: name} | renamed | where


def provenance_columns(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as flat columns; what the driver tells of a GPU is `gpu_...`."""
    flat = {key: value for key, value in provenance.items() if key not in ("device", "dtype", "gpu")}
    return flat | {f"gpu_{key}": value for key, value in provenance.get("gpu", {}).items()}


def _figures(document: Mapping[str, Any]) -> dict[str, Any]:
    timed, roofline = document["latency_ms"], document["roofline"]
    return {
        "parameters": document["parameters"],
        **{f"{name}_flops": value for name, value in document["flops"].items()},
        "bytes_moved": document["bytes_moved"]["forward"],
        "coverage": document["coverage"],
        "clock": document["clock"],
        **{f"latency_{name}_ms": None if timed is None else timed[name] for name in _SPREAD},
        "throughput": document["throughput"],
        "peak_memory_bytes": document["peak_memory_bytes"],
        "explained_by_roofline": None if roofline is None else roofline["explained"],
    }


_SPREAD = ("median", "p10", "q1", "q3", "p90", "low", "high")
