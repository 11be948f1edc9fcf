"""The work of operations, and the small functions that formulas are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from naslab.efficiency.tensors import stored_elements


@dataclass(frozen=True)
class Work:
    """FLOPs of an operation or of many. `masked` is the part of `contraction` spent on positions that a causal
    mask throws away: a dense kernel executes it, the result does not depend on it.
    """

    contraction: int = 0
    pointwise: int = 0
    masked: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.contraction + other.contraction, self.pointwise + other.pointwise, self.masked + other.masked)

    @property
    def effective(self) -> int:
        """Contraction FLOPs that the result depends on."""
        return self.contraction - self.masked


@dataclass(frozen=True)
class Call:
    """One executed operation: its arguments by the names of its schema, and the tensors it returned."""

    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor argument `name`."""
        return tuple(self.arguments[name].shape)

    @property
    def elements(self) -> int:
        """Stored elements of the first output: the result, not the statistics saved beside it."""
        return stored_elements(self.outputs[0]) if self.outputs else 0


Formula: TypeAlias = Callable[[Call], Work]


def per_output(cost: int) -> Formula:
    """`cost` pointwise FLOPs for each element of the result."""
    return lambda call: Work(pointwise=cost * call.elements)


def per_element(argument: str, cost: int = 1) -> Formula:
    """`cost` pointwise FLOPs for each element of a tensor argument (reductions, scatters, backwards)."""
    return lambda call: Work(pointwise=cost * stored_elements(call.arguments[argument]))


def free(call: Call) -> Work:
    """Moves, creates or selects elements, computes nothing."""
    return Work()


def table(formula: Formula, names: str) -> dict[str, Formula]:
    """The same formula for each of the names, which are separated by spaces."""
    return dict.fromkeys(names.split(), formula)


NORMALISATION = 8
"""FLOPs of normalising an element: mean 1, variance 3, subtract, scale, affine 2."""
GELU = 5
