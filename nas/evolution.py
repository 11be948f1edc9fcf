"""Regularised evolution (Real et al. 2019)."""

from __future__ import annotations

import numpy as np

from naslab.nas.encoding import distributions
from naslab.nas.history import Ask, random_configuration
from naslab.nas.pareto import first_front
from naslab.search_spaces import Chain, Configuration, SearchSpace
from naslab.search_spaces.parameters import Value


def evolve(ask: Ask) -> Configuration:
    """Mutate the best of a tournament among the youngest individuals.

    With a cost, the best are the tournament's Pareto front, of which one is drawn.
    """
    arm, rng = ask.arm, np.random.default_rng(ask.seed)
    alive = [observation for observation in ask.history if observation.value is not None][-arm.population :]
    if len(ask.history) + len(ask.pending) < arm.population or not alive:
        return random_configuration(ask.space, ask.seed)
    chosen = rng.choice(len(alive), size=min(arm.tournament, len(alive)), replace=False)
    tournament = [alive[i] for i in chosen]
    if any(observation.cost is not None for observation in tournament):
        front = first_front([(observation.value or 0.0, observation.cost or 0.0) for observation in tournament])
        parent = tournament[front[int(rng.integers(len(front)))]]
    else:
        parent = max(tournament, key=lambda observation: observation.value or 0.0)
    return mutate(ask.space, parent.configuration, rng)


def mutate(space: SearchSpace, configuration: Configuration, rng: np.random.Generator) -> Configuration:
    """Draw one flat decision anew, and whatever a change of condition then asks for."""
    names = [
        (parameter.name, index)
        for parameter in space.parameters
        if parameter.name in configuration
        for index in range(len(distributions(parameter)))
    ]
    target, position = names[int(rng.integers(len(names)))]
    values: dict[str, Value] = {}
    for parameter in space.parameters:
        if parameter.when is not None and not parameter.when.holds(values):
            continue
        old, new = configuration.get(parameter.name), parameter.sample(rng)
        if old is None:
            values[parameter.name] = new
        elif parameter.name != target:
            values[parameter.name] = old
        elif isinstance(parameter, Chain):
            assert isinstance(old, tuple)
            assert isinstance(new, tuple)
            values[parameter.name] = (*old[:position], new[position], *old[position + 1 :])
        else:
            values[parameter.name] = new
    return space.configuration(values)
