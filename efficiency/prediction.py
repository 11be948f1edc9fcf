"""Predicted step times: counted work, weighted by measurements, with a back-tested interval.

The time of a step is a sum of features (see `step_features`), each times a factor that says how far real kernels stay
behind. The factors are the most probable ones: errors are relative and robust, factors are positive, and what the
measured steps do not tell stays near what is usual. Predicting each measured model from the others gives the errors
from which the interval is taken; what is unlike every measured step is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naslab.efficiency.roofline import Roof
from naslab.efficiency.step_features import FEATURES, SPREAD, USUAL
from naslab.errors import InputError
from naslab.kernels._cache import replace_file

SCHEMA = "naslab.step_times/3"
COVERAGE = 0.9
"""Share of the back-test's errors that the interval holds."""
REACH = 2.0
"""How far outside the measured steps, as a factor, a step may lie before its prediction is refused."""
MIN_STEPS = 10
USUAL_ERROR = 0.1
"""Relative error of a step above which it counts by its size, no longer by its square."""


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
        seconds = _seconds(self.factors, features)
        if not self.shortest / REACH <= seconds <= self.longest * REACH:
            raise InputError(
                f"prediction for {self.device}: {seconds:.3g} s is outside the calibrated range, "
                f"{self.shortest / REACH:.3g} to {self.longest * REACH:.3g} s"
            )
        return Prediction(seconds, seconds * self.low, seconds * self.high)


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
        predicted.append(_seconds(factors, step.features) if known else None)
    return predicted


def _seconds(factors: Mapping[str, float], features: Mapping[str, float]) -> float:
    return sum(factor * features.get(name, 0.0) for name, factor in factors.items())


def _factors(steps: Iterable[StepTime]) -> dict[str, float]:
    """The most probable factor of each feature that any of the steps has: pseudo-Huber loss of the logarithm of
    predicted over measured, and a normal prior of each factor's logarithm.
    """
    from scipy.optimize import least_squares  # half a second; most processes calibrate nothing

    rows = list(steps)
    names = [name for name in FEATURES if any(step.features.get(name) for step in rows)]
    relative = np.array([[step.features.get(name, 0.0) / step.seconds for name in names] for step in rows])
    usual = np.log([USUAL[name] for name in names])

    def residuals(logs: np.ndarray) -> np.ndarray:
        errors = np.log(relative @ np.exp(logs)) / USUAL_ERROR
        robust = np.copysign(np.sqrt(2 * (np.sqrt(1 + errors**2) - 1)), errors)
        return np.concatenate([robust, (logs - usual) / SPREAD])

    found = least_squares(residuals, usual)
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


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
            replace_file(path, json.dumps(self.to_dict(), indent=1, allow_nan=False).encode())
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
