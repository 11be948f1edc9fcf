"""Predicted times of a counted model on another device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from naslab.efficiency.ceilings import ceilings_path
from naslab.efficiency.device import host_memory_bytes
from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.gpus import DeviceSpec, find_gpu, match_gpu
from naslab.efficiency.prediction import Prediction, StepTimes
from naslab.efficiency.published_rates import predict_published, published_basis
from naslab.efficiency.roofline import Roof, place
from naslab.efficiency.step_features import features
from naslab.errors import InputError
from naslab.kernels._cache import cache_folder

TRAINED_IN = ("bfloat16", "float16")
"""The number formats of the published runs."""
MOST_GAP = 0.05
"""Share of a step's FLOPs that operations without a formula may have at most, before its prediction is refused."""
HERE = "cpu"
"""The target that is this machine's processor, once `naslab devices calibrate` has timed the suite of models on it."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a device: its roof by measurement or data sheet, and the steps measured on it, if any."""

    name: str
    label: str
    memory_bytes: int
    roof: Roof
    measured: StepTimes | None

    @property
    def basis(self) -> str:
        """Where its predictions come from."""
        if self.measured is None:
            return published_basis()
        errors = self.measured.errors()
        return f"measured steps; half of the models are missed by less than {errors[len(errors) // 2]:.0%}"


def evidence_for(name: str) -> Evidence:
    """What is known of the device called `name`.

    Raises:
        InputError: no such device; or it is "cpu", on which nothing was measured yet.
    """
    if name == HERE:
        measured = measured_here()
        return Evidence(HERE, measured.roof.device, host_memory_bytes(), measured.roof, measured)
    spec = find_gpu(name)
    steps = measured_steps(spec)
    return Evidence(spec.name, spec.label, spec.memory_bytes, Roof.of(spec) if steps is None else steps.roof, steps)


def target_name(name: str) -> str:
    """The name under which the device called `name` is predicted for, calibrated or not.

    Raises:
        InputError: no such device.
    """
    return HERE if name.strip().lower() == HERE else find_gpu(name).name


def predict(
    name: str,
    dtype: str,
    forward: FlopCount | None,
    training: FlopCount | None,
    needs: Mapping[str, int | None] | None = None,
) -> dict[str, Any]:
    """The `predicted` entry of a device: for forward and training step the least time under its roof and, where
    evidence allows, a predicted time with its interval; else the reason for refusing one.

    Args:
        name: a device of the table (`naslab devices`), or "cpu" for this machine's processor.
        dtype: the number format that the counted model ran in.
        needs: forecast bytes of "forward" and "training_step", so that what does not fit is said.

    Raises:
        InputError: no such device, or no peak is known for that format.
    """
    evidence = evidence_for(name)
    entry: dict[str, Any] = {"device": evidence.label, "basis": evidence.basis}
    for key, counted in (("forward", forward), ("training_step", training)):
        if counted is not None:
            entry[key] = _entry(evidence, dtype, counted, key == "training_step")
    memory = {key: fit_in(evidence.memory_bytes, found) for key, found in (needs or {}).items() if found is not None}
    return entry | ({"memory": memory} if memory else {})


def fit_in(device_bytes: int, needs: int) -> dict[str, Any]:
    """Whether a device holds so many bytes, and the smallest number of devices that would, all evenly divided."""
    devices = max(1, -(-needs // device_bytes))
    return {"needs_bytes": needs, "device_bytes": device_bytes, "fits": devices == 1, "devices": devices}


def _entry(evidence: Evidence, dtype: str, counted: FlopCount, training: bool) -> dict[str, Any]:
    least = place(counted, evidence.roof)
    entry: dict[str, Any] = {"bound_ms": 1e3 * least.bound_seconds, "limit": _limit(least.compute_bound_share)}
    gap = _gap(counted)
    if gap is not None:
        entry["gap"] = gap
    try:
        found = step_seconds(evidence, dtype, counted, training=training)
    except InputError as error:
        return entry | {"ms": None, "refused": str(error)}
    return entry | {"ms": {"median": 1e3 * found.seconds, "low": 1e3 * found.low, "high": 1e3 * found.high}}


def _gap(counted: FlopCount) -> dict[str, Any] | None:
    """What has no formula, and the largest share of all FLOPs that it could have."""
    if not counted.uncovered:
        return None
    most = counted.most_uncovered
    return {"names": list(counted.uncovered), "most_share": most / max(counted.total + most, 1)}


def step_seconds(evidence: Evidence, dtype: str, counted: FlopCount, *, training: bool) -> Prediction:
    """Seconds of a counted step on a device, from steps measured on it or else from published runs on others.

    Raises:
        InputError: there is no evidence, or too much of the work is unknown; the message says which.
    """
    gap = _gap(counted)
    share = 0.0 if gap is None else float(gap["most_share"])
    if share > MOST_GAP:
        names = ", ".join(counted.uncovered)
        raise InputError(f"no formula for {names}, which may be up to {share:.0%} of the FLOPs")
    if evidence.measured is not None:
        found = evidence.measured.predictor().predict(features(counted, evidence.roof))
    elif dtype not in TRAINED_IN:
        raise InputError(f"the published training runs are in half precision, not {dtype}; use --dtype bf16")
    else:
        found = predict_published(counted, place(counted, evidence.roof).bound_seconds, training=training)
    return replace(found, high=found.high / (1 - share))


def measured_steps(spec: DeviceSpec) -> StepTimes | None:
    """The steps that were measured on a device of the table, if any were."""
    for steps in filter(None, map(_of_this_version, step_time_files())):
        if match_gpu(steps.roof.device.removeprefix("cuda: ")) == spec:
            return steps
    return None


def _of_this_version(path: Path) -> StepTimes | None:
    """The steps of a file; None of one that another version of the program wrote, which knew other features."""
    try:
        return StepTimes.read(path)
    except InputError:
        return None


def steps_path(device: torch.device) -> Path:
    """Where the measured steps of a device of this machine are kept; of a CPU, for the present number of threads."""
    return _cache() / ceilings_path(device).name


def measured_here() -> StepTimes:
    """The steps that were measured on this machine's processor.

    Raises:
        InputError: none were.
    """
    path = steps_path(torch.device("cpu"))
    if not path.exists():
        raise InputError(f"target: {HERE} has no measured steps; run `naslab devices calibrate` first")
    return StepTimes.read(path)


def _cache() -> Path:
    return cache_folder() / "step_times"


def step_time_files() -> Iterable[Path]:
    """Files of measured steps: the user's own, then those that come with the project."""
    for folder in (_cache(), Path(__file__).parent / "step_times"):
        yield from sorted(folder.glob("*.json"))


def _limit(compute_bound_share: float) -> str:
    return "compute" if compute_bound_share >= 0.5 else "memory"
