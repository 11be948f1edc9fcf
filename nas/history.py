"""Everything that a proposal may depend on: the space, past results, running proposals, and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naslab.errors import InputError
from naslab.nas.arms import Sampled
from naslab.search_spaces import Configuration, SearchSpace

REFUSALS = 1000
"""How often a draw that the space refuses is drawn anew."""


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
    """A configuration drawn uniformly from what engines may propose, drawn anew where the space refuses it.

    Raises:
        InputError: the space refused every one of REFUSALS draws.
    """
    rng = np.random.default_rng(seed)
    for _ in range(REFUSALS - 1):
        try:
            return space.random(rng)
        except InputError:
            continue
    return space.random(rng)
