"""The result of a count: every executed operation, and sums over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import torch

from naslab.efficiency.work import Work

Phase: TypeAlias = Literal["forward", "backward", "optimiser"]
OUTSIDE = "(outside any module)"
"""The row of operations that ran for no module, where there are any."""


@dataclass(frozen=True)
class Operation:
    """One executed operation. `modules` are the names of the modules it ran for, outermost first; a backward
    operation belongs to the modules of the forward operation whose gradient it takes. `elements` are those of its
    results. An operation without a formula (`covered` is false) has no work, but could have done `most` FLOPs, had it
    been one dense product of all its tensors.
    """

    name: str
    kind: str
    phase: Phase
    modules: tuple[str, ...]
    dtype: torch.dtype
    work: Work
    bytes_moved: int
    elements: int
    covered: bool
    most: int = 0


@dataclass(frozen=True)
class FlopCount:
    """What a run executed, for the whole batch; a multiply-add is 2. Everything here is summed from `operations`.
    `output_shapes` are those of each module's first result tensor, at its first call.
    """

    operations: tuple[Operation, ...]
    output_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def work(self) -> Work:
        """FLOPs of all operations."""
        return _sum(self.operations)

    @property
    def total(self) -> int:
        """FLOPs of all contractions, the figure that the literature calls FLOPs; `work.pointwise` is the rest."""
        return self.work.contraction

    @cached_property
    def bytes_moved(self) -> int:
        """Bytes that the operations read and write, each by itself; see `naslab.efficiency.traffic`."""
        return sum(operation.bytes_moved for operation in self.operations)

    @cached_property
    def by_operation(self) -> Mapping[str, Work]:
        """Work by the operation's name."""
        return _grouped((operation.name, operation) for operation in self.operations if operation.covered)

    @cached_property
    def by_kind(self) -> Mapping[str, Work]:
        """Work by kind, see `naslab.efficiency.kinds`."""
        return _grouped((operation.kind, operation) for operation in self.operations)

    @cached_property
    def by_phase(self) -> Mapping[str, Work]:
        """Work of forward, backward and optimiser."""
        return _grouped((operation.phase, operation) for operation in self.operations)

    @cached_property
    def by_module(self) -> Mapping[str, Work]:
        """Forward work of each module with its children, by the names of `named_modules`; "" is the model."""
        return self._of_modules("forward")

    @cached_property
    def backward_by_module(self) -> Mapping[str, Work]:
        """Backward work of each module with its children."""
        return self._of_modules("backward")

    def own_by_module(self, phase: Phase) -> Mapping[str, Work]:
        """Work of each module without its children. With `OUTSIDE`, these sum to the total of the phase."""
        operations = (operation for operation in self.operations if operation.phase == phase)
        return _grouped((o.modules[-1] if o.modules else OUTSIDE, o) for o in operations)

    @cached_property
    def coverage_by(self) -> Mapping[str, float]:
        """Share of the executed operations that had a formula, by their number, the elements of their results, and
        the bytes that they move. Views alias, so they are none of these.
        """
        weights: Mapping[str, Callable[[Operation], int]] = {
            "operations": lambda _: 1,
            "elements": lambda operation: operation.elements,
            "bytes": lambda operation: operation.bytes_moved,
        }
        return {name: self._covered(weight) for name, weight in weights.items()}

    @property
    def coverage(self) -> float:
        """The least of the shares `coverage_by`; 1 only where every operation had a formula."""
        return min(self.coverage_by.values())

    @cached_property
    def uncovered(self) -> tuple[str, ...]:
        """Names of the operations that had no formula."""
        return tuple(sorted({operation.name for operation in self.operations if not operation.covered}))

    @cached_property
    def most_uncovered(self) -> int:
        """FLOPs that the operations without a formula could have done, see `Operation.most`."""
        return sum(operation.most for operation in self.operations)

    def _covered(self, weight: Callable[[Operation], int]) -> float:
        total = sum(weight(operation) for operation in self.operations)
        covered = sum(weight(operation) for operation in self.operations if operation.covered)
        return covered / total if total else 1.0

    def _of_modules(self, phase: Phase) -> Mapping[str, Work]:
        return _grouped(
            (m, operation) for operation in self.operations if operation.phase == phase for m in operation.modules
        )


def _sum(operations: Iterable[Operation]) -> Work:
    return sum((operation.work for operation in operations), Work())


def _grouped(keyed: Iterable[tuple[str, Operation]]) -> Mapping[str, Work]:
    groups: dict[str, Work] = defaultdict(Work)
    for key, operation in keyed:
        groups[key] += operation.work
    return dict(groups)
