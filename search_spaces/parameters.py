"""What may vary: typed parameters, each with its range, the reason for it and when it applies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from naslab.errors import InputError

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | tuple[str, ...]


@dataclass(frozen=True)
class When:
    """A condition of a parameter or an option: it applies only while `parameter` has one of `values`.

    Parameters carry it as `when`. Options carry it in their type, and name another option of the same group:
    `queue_size: Annotated[int, When("framework", ("mocov2",))] = 4096`.
    """

    parameter: str
    values: tuple[Scalar | None, ...]

    def holds(self, chosen: Mapping[str, Any]) -> bool:
        """Whether the condition is met by the values chosen so far."""
        return chosen.get(self.parameter) in self.values

    def __str__(self) -> str:
        """The condition in words."""
        return f"{self.parameter} = {' or '.join(str(value) for value in self.values)}"


class Unless(When):
    """The opposite condition: it applies only while `parameter` has none of `values`."""

    def holds(self, chosen: Mapping[str, Any]) -> bool:
        """Whether the condition is met by the values chosen so far."""
        return not super().holds(chosen)

    def __str__(self) -> str:
        """The condition in words."""
        return f"{self.parameter} other than {' or '.join(str(value) for value in self.values)}"


@dataclass(frozen=True)
class Parameter(ABC):
    """One thing that varies. `reason` says why the range is what it is; it is printed by `naslab spaces`."""

    name: str
    reason: str = field(default="", kw_only=True)
    when: When | None = field(default=None, kw_only=True)

    @abstractmethod
    def check(self, value: object) -> Value:
        """Return `value` in its canonical type, or raise InputError naming the parameter and what is allowed."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Value:
        """Draw a value uniformly (log-uniformly for a log range) from what an engine may propose."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The range in words, for error messages and tables."""

    def _refuse(self, value: object) -> InputError:
        return InputError(f"{self.name}: {value!r} is not allowed; use {self.allowed}{_is_text(value)}")


@dataclass(frozen=True)
class Categorical(Parameter):
    """One of `choices`. Engines propose only `proposed` (default: all of them).

    A choice that is not proposed is still a valid value: a published setting outside the searched region.
    """

    choices: tuple[Scalar, ...]
    proposed: tuple[Scalar, ...] = ()
    meaning: str = "one of"
    """What the choices are, for error messages."""

    def __post_init__(self) -> None:
        """Default `proposed` to every choice."""
        if not self.proposed:
            object.__setattr__(self, "proposed", self.choices)
        elif not set(self.proposed) <= set(self.choices):
            raise ValueError(f"{self.name}: proposed {self.proposed} is not a subset of {self.choices}")

    @property
    def allowed(self) -> str:
        """The choices in words."""
        return f"{self.meaning} {', '.join(map(str, self.choices))}"

    def check(self, value: object) -> Value:
        """See Parameter.check."""
        for choice in self.choices:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        raise self._refuse(value)

    def sample(self, rng: np.random.Generator) -> Value:
        """See Parameter.sample."""
        return self.proposed[int(rng.integers(len(self.proposed)))]


@dataclass(frozen=True)
class Integer(Parameter):
    """An integer in [low, high], both included, in steps of `step` from `low`, or on a log scale."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    @property
    def allowed(self) -> str:
        """The range in words."""
        steps = f" in steps of {self.step}" if self.step != 1 else ""
        return f"an integer from {self.low} to {self.high}{steps}"

    def check(self, value: object) -> Value:
        """See Parameter.check."""
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer):
            raise self._refuse(value)
        if not self.low <= value <= self.high or value != int(value) or (int(value) - self.low) % self.step:
            raise self._refuse(value)
        return int(value)

    def sample(self, rng: np.random.Generator) -> Value:
        """See Parameter.sample."""
        if self.log:
            return round(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self.low + self.step * int(rng.integers((self.high - self.low) // self.step + 1))


@dataclass(frozen=True)
class Float(Parameter):
    """A real number in [low, high], both included, on a linear or a log scale."""

    low: float
    high: float
    log: bool = False

    @property
    def allowed(self) -> str:
        """The range in words."""
        return f"a number from {self.low:g} to {self.high:g}"

    def check(self, value: object) -> Value:
        """See Parameter.check."""
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise self._refuse(value)
        number = float(value)
        if not self.low <= number <= self.high:
            raise self._refuse(value)
        return number

    def sample(self, rng: np.random.Generator) -> Value:
        """See Parameter.sample."""
        if self.log:
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Chain(Parameter):
    """`length` decisions over the same `choices`: the layers of a searched cell, one operation each.

    Its value is a tuple of operation names, written as a list in YAML.
    """

    choices: tuple[str, ...]
    length: int

    @property
    def allowed(self) -> str:
        """The choices and the length in words."""
        return f"a list of {self.length} operations, each one of {', '.join(self.choices)}"

    def check(self, value: object) -> Value:
        """See Parameter.check."""
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != self.length:
            raise self._refuse(value)
        for position, operation in enumerate(value):
            if operation not in self.choices:
                raise InputError(
                    f"{self.name}[{position}]: {operation!r} is not allowed; use one of {', '.join(self.choices)}"
                )
        return tuple(value)

    def sample(self, rng: np.random.Generator) -> Value:
        """See Parameter.sample."""
        return tuple(self.choices[int(i)] for i in rng.integers(len(self.choices), size=self.length))


def _is_text(value: object) -> str:
    """A word on numbers in quotes, which YAML reads as text."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ""
    return "" if number is None else f" (this is text; without quotes, {number:g}, it is a number)"
