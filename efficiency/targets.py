"""What a counted model would take on a device that is not at hand."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from naslab.efficiency.errors import InputError
from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.gpus import DeviceSpec, find_gpu, match_gpu
from naslab.efficiency.prediction import Prediction, Predictor, StepTimes, features
from naslab.efficiency.published_rates import BASIS, predict_training
from naslab.efficiency.roofline import Roof, place

TRAINED_IN = ("bfloat16", "float16")
"""The number formats of the published runs."""


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
        name: a device of the table (`naslab devices`).
        dtype: the number format that the counted model ran in.

    Raises:
        InputError: no such device, or no peak is known for that format.
    """
    spec = find_gpu(name)
    measured = _measured_steps(spec)
    roof = Roof.of(spec) if measured is None else measured.roof
    entry: dict[str, Any] = {"device": spec.label, "basis": BASIS if measured is None else "measured steps"}
    for key, counted in (("forward", forward), ("training_step", training)):
        if counted is None:
            continue
        least = place(counted, roof)
        entry[key] = {"bound_ms": 1e3 * least.bound_seconds, "limit": _limit(least.compute_bound_share)}
        try:
            found = _predict(spec, measured, dtype, counted, training=key == "training_step")
        except InputError as error:
            entry[key] |= {"ms": None, "refused": str(error)}
        else:
            entry[key] |= {"ms": {"median": 1e3 * found.seconds, "low": 1e3 * found.low, "high": 1e3 * found.high}}
    return entry


def _predict(
    spec: DeviceSpec, measured: StepTimes | None, dtype: str, counted: FlopCount, training: bool
) -> Prediction:
    if measured is not None:
        predictor: Predictor = measured.predictor()
        return predictor.predict(features(counted, measured.roof))
    if not training:
        raise InputError(f"no step of inference was measured on {spec.label}, here or in a published table")
    if dtype not in TRAINED_IN:
        raise InputError(f"the published training runs are in half precision, not {dtype}; use --dtype bf16")
    if counted.uncovered:
        raise InputError(f"no formula for {', '.join(counted.uncovered)}")
    return predict_training(counted.total, spec, dtype)


def _measured_steps(spec: DeviceSpec) -> StepTimes | None:
    for path in step_time_files():
        steps = StepTimes.read(path)
        if match_gpu(steps.roof.device.removeprefix("cuda: ")) == spec:
            return steps
    return None


def step_time_files() -> Iterable[Path]:
    """Files of measured steps: the user's own, then those that come with the project."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naslab" / "step_times"
    for folder in (cache, Path(__file__).parent / "step_times"):
        yield from sorted(folder.glob("*.json"))


def _limit(compute_bound_share: float) -> str:
    return "compute" if compute_bound_share >= 0.5 else "memory"
