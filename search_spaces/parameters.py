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

    @property
    @abstractmethod
    def unsound(self) -> str:
        """Why no engine could draw from the range; empty where one can."""

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

    @property
    def unsound(self) -> str:
        """See Parameter.unsound."""
        return _unsound_choices(self.choices)

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

    @property
    def unsound(self) -> str:
        """See Parameter.unsound."""
        if self.step < 1 or (self.log and self.step != 1):
            return f"steps of {self.step}{' on a log scale' if self.log else ''}; use 1{'' if self.log else ' or more'}"
        return _unsound_range(self.low, self.high, self.log)

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

    @property
    def unsound(self) -> str:
        """See Parameter.unsound."""
        return _unsound_range(self.low, self.high, self.log)

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

    @property
    def unsound(self) -> str:
        """See Parameter.unsound."""
        return _unsound_choices(self.choices) or ("" if self.length > 0 else f"a length of {self.length}")

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


def check_parameters(parameters: Sequence[Parameter]) -> None:
    """Refuse parameters that no engine could draw.

    Raises:
        InputError: a name that stands twice, an empty range, a log scale that reaches 0, a choice that stands twice, or
            a condition on what is no earlier parameter.
    """
    earlier: list[str] = []
    for parameter in parameters:
        if parameter.name in earlier:
            raise InputError(f"{parameter.name}: two parameters have this name")
        if parameter.unsound:
            raise InputError(f"{parameter.name}: {parameter.unsound}")
        if parameter.when is not None and isinstance(parameter.when.values, str):
            raise InputError(
                f"{parameter.name}: its condition has the text {parameter.when.values!r} for values; write a tuple, "
                f"({parameter.when.values!r},)"
            )
        if parameter.when is not None and parameter.when.parameter not in earlier:
            raise InputError(
                f"{parameter.name}: applies only with {parameter.when}, but no parameter before it is called "
                f"{parameter.when.parameter!r}; there are {', '.join(earlier) or 'none'}"
            )
        earlier.append(parameter.name)


def check_conditions(parameters: Sequence[Parameter]) -> None:
    """Refuse a parameter that would never apply; a space whose options leave out choices may have some.

    Raises:
        InputError: a condition on values that the parameter which it names never has.
    """
    by_name = {parameter.name: parameter for parameter in parameters}
    for parameter in parameters:
        when = parameter.when
        if when is not None and not any(_takes(by_name[when.parameter], value) for value in when.values):
            allowed = by_name[when.parameter].allowed
            raise InputError(f"{parameter.name}: applies only with {when}, but {when.parameter} is {allowed}")


def _takes(parameter: Parameter, value: object) -> bool:
    try:
        parameter.check(value)
    except InputError:
        return False
    return True


def _unsound_range(low: float, high: float, log: bool) -> str:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        return f"no range from {low:g} to {high:g}; use two numbers, the smaller one first"
    return f"a log scale from {low:g}; use a range above 0" if log and low <= 0 else ""


def _unsound_choices(choices: Sequence[Scalar]) -> str:
    """Values that equal one another are one choice, whatever their type: True is 1 to who looks it up."""
    if not choices:
        return "no choice; use one or more"
    twice = next((choice for i, choice in enumerate(choices) if choice in choices[:i]), None)
    return "" if twice is None else f"the choice {twice!r} stands twice; keep one"


def _is_text(value: object) -> str:
    """A word on numbers in quotes, which YAML reads as text."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ""
    return "" if number is None else f" (this is text; without quotes, {number:g}, it is a number)"
