"""Predicted step times: counted work, weighed by what was measured, with an interval that a back-test earned.

The time of a step is a sum: products of each kind at the device's peak, bytes at its bandwidth, forward and backward by
themselves, and dispatched operations, each times a factor that says how far real kernels stay behind. The factors are
fitted to measured steps (least absolute relative error, none negative). Predicting each measured model from the others
gives the errors from which the interval is taken; what is unlike every measured step is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from naslab.efficiency import kinds
from naslab.efficiency.ceilings import replace_file
from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.roofline import Roof
from naslab.errors import InputError

SCHEMA = "naslab.step_times/2"
DISPATCH = "dispatch"
MEMORY = "memory traffic"
_PRODUCT = {
    kinds.CONVOLUTION: kinds.CONVOLUTION,
    kinds.GROUPED_CONVOLUTION: kinds.GROUPED_CONVOLUTION,
    kinds.ATTENTION: kinds.ATTENTION,
    kinds.RECURRENT: kinds.RECURRENT,
}
"""Kinds of products whose factor is fitted by itself; every other product is taken for a matrix product."""
_FORWARD = (kinds.MATRIX_PRODUCT, *_PRODUCT, MEMORY)
FEATURES = (*_FORWARD, *(f"{name}, backward" for name in _FORWARD), DISPATCH)
COVERAGE = 0.9
"""Share of the back-test's errors that the interval holds."""
REACH = 2.0
"""How far outside the measured steps, as a factor, a step may lie before its prediction is refused."""
MIN_STEPS = 10
REWEIGHTED, SMALLEST_ERROR = 30, 0.02


@dataclass(frozen=True)
class StepTime:
    """One measured step. `features` are seconds at the device's ceilings, and the number of dispatched operations.

    `samples` are all that was timed, in seconds.
    """

    name: str
    training: bool
    features: Mapping[str, float]
    seconds: float
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step, with the interval that held 90 % of the back-test's measured steps."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Predictor:
    """Fitted factors of one device, the back-test's interval of measured over predicted, and the range fitted on."""

    device: str
    factors: Mapping[str, float]
    low: float
    high: float
    shortest: float
    longest: float

    def predict(self, features: Mapping[str, float]) -> Prediction:
        """The time of a step with these features.

        Raises:
            InputError: the step is outside what the device was measured on.
        """
        for name in FEATURES:
            if features.get(name, 0.0) and name not in self.factors:
                raise InputError(f"prediction for {self.device}: no measured step had any {name}")
        seconds = sum(factor * features.get(name, 0.0) for name, factor in self.factors.items())
        if not self.shortest / REACH <= seconds <= self.longest * REACH:
            raise InputError(
                f"prediction for {self.device}: {seconds:.3g} s is outside the calibrated range, "
                f"{self.shortest / REACH:.3g} to {self.longest * REACH:.3g} s"
            )
        return Prediction(seconds, seconds * self.low, seconds * self.high)


def features(counted: FlopCount, roof: Roof) -> dict[str, float]:
    """What a step's time is predicted from.

    Raises:
        InputError: no ceiling is known for the number format of part of the work.
    """
    sums = dict.fromkeys(FEATURES, 0.0)
    for operation in counted.operations:
        phase = ", backward" if operation.phase == "backward" else ""
        if operation.work.contraction:
            name = _PRODUCT.get(operation.kind, kinds.MATRIX_PRODUCT)
            sums[f"{name}{phase}"] += roof.compute_seconds(operation)
        sums[f"{MEMORY}{phase}"] += operation.bytes_moved / roof.bytes_per_second
    sums[DISPATCH] = float(len(counted.operations))
    return sums


def fit(device: str, steps: Sequence[StepTime]) -> Predictor:
    """Fit the factors of a device and back-test them.

    Raises:
        InputError: fewer than 10 measured steps.
    """
    if len(steps) < MIN_STEPS:
        raise InputError(f"prediction for {device}: {len(steps)} measured steps; at least {MIN_STEPS} are needed")
    tested = zip(steps, leave_one_out(steps), strict=True)
    ratios = sorted(step.seconds / predicted for step, predicted in tested if predicted is not None)
    # The conformal rank: with n exchangeable errors the k-th smallest bounds a new one with probability k / (n + 1).
    cut = max(math.floor((1 - COVERAGE) / 2 * (len(ratios) + 1)), 1)
    seconds = [step.seconds for step in steps]
    return Predictor(device, _factors(steps), ratios[cut - 1], ratios[-cut], min(seconds), max(seconds))


def leave_one_out(steps: Sequence[StepTime]) -> list[float | None]:
    """Seconds of each step as predicted from the steps of all other models; None where it would be refused, because
    no other model has work of one of its kinds.
    """
    predicted: list[float | None] = []
    for step in steps:
        factors = _factors([other for other in steps if other.name != step.name])
        known = all(name in factors for name, value in step.features.items() if value)
        seconds = sum(factor * step.features.get(name, 0.0) for name, factor in factors.items())
        predicted.append(seconds if known else None)
    return predicted


def _factors(steps: Iterable[StepTime]) -> dict[str, float]:
    """The factor of each feature that any of the steps has: least absolute relative errors, by least squares whose
    weights follow from the errors before (Schlossmacher 1973), so that a disturbed step weighs little.
    """
    rows = list(steps)
    relative = np.array([[step.features.get(name, 0.0) / step.seconds for name in FEATURES] for step in rows])
    weights = np.ones(len(rows))
    for _ in range(REWEIGHTED):
        solution, _residual = nnls(relative * weights[:, None], weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(relative @ solution - 1), SMALLEST_ERROR))
    return {
        name: float(factor) for name, factor, column in zip(FEATURES, solution, relative.T, strict=True) if any(column)
    }


def _read_step(values: Mapping[str, Any]) -> StepTime:
    return StepTime(**{**values, "samples": tuple(values.get("samples", ()))})


@dataclass(frozen=True)
class StepTimes:
    """The measured steps of one device with the roof that their features refer to, as a file holds them."""

    roof: Roof
    steps: tuple[StepTime, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values with `schema`."""
        return {"schema": SCHEMA, "roof": asdict(self.roof), "steps": [asdict(step) for step in self.steps]}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> StepTimes:
        """The inverse of `to_dict`.

        Raises:
            ValueError: another schema.
        """
        if document.get("schema") != SCHEMA:
            raise ValueError(f"schema {document.get('schema')!r} is not {SCHEMA!r}; measure again")
        roof = Roof(**document["roof"] | {"tf32": tuple(document["roof"].get("tf32", ()))})
        return cls(roof, tuple(map(_read_step, document["steps"])))

    def save(self, path: Path) -> None:
        """Write to a file, atomically.

        Raises:
            InputError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None

    @classmethod
    def read(cls, path: Path) -> StepTimes:
        """The steps of a file.

        Raises:
            InputError: it cannot be read as one.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: not a file of measured steps: {error}") from None

    def predictor(self) -> Predictor:
        """Fitted to these steps."""
        return fit(self.roof.device, self.steps)

    def errors(self) -> list[float]:
        """How far each step is missed, as a share of it, predicted from all other models; in order of size."""
        tested = zip(self.steps, leave_one_out(self.steps), strict=True)
        return sorted(abs(found / step.seconds - 1) for step, found in tested if found is not None)
