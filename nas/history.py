"""Everything that a proposal may depend on: the space, past results, running proposals, and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naslab.nas.arms import Sampled
from naslab.search_spaces import Configuration, SearchSpace


@dataclass(frozen=True)
class Observation:
    """A proposal of the arm and what came of it; `value` is None where it failed or was not trained.

    `violations` say by how much each constraint of the study is broken, positive where it is. `cost` is what the value
    is traded against, less is better; None where the value alone counts.
    """

    configuration: Configuration
    value: float | None
    violations: tuple[float, ...] = ()
    cost: float | None = None


@dataclass(frozen=True)
class Ask:
    """Everything that a proposal is a function of.

    `history` holds the finished proposals in the order in which they were made, what a warm start brought before
    them; `number` counts what the arm has tried and tries. `seed` is this proposal's own, `stream` the arm's.
    """

    arm: Sampled
    space: SearchSpace
    history: Sequence[Observation]
    pending: Sequence[Configuration]
    number: int
    seed: int
    stream: int


def random_configuration(space: SearchSpace, seed: int) -> Configuration:
    """A configuration drawn uniformly from what engines may propose: see SearchSpace.random."""
    return space.random(np.random.default_rng(seed))
