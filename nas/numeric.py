"""Samplers over the unit cube of a space's flat decisions: a lattice, a Sobol sequence, CMA-ES."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from naslab.errors import InputError
from naslab.nas.encoding import distributions, flatten, suggest_values
from naslab.nas.history import Ask, Observation
from naslab.search_spaces import Configuration, SearchSpace

Vector = NDArray[np.float64]
LATTICE = 10_000
"""A lattice of at most so many points is walked to its end; a larger one is drawn from."""


def flat_decisions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Every flat decision that the space knows, those that depend on others too, in its order."""
    return {name: d for parameter in space.parameters for name, d in distributions(parameter).items()}


def from_unit(distribution: BaseDistribution, u: float) -> Any:
    """The value at share `u` in [0, 1) of a range; on a log scale of its logarithm."""
    match distribution:
        case CategoricalDistribution():
            return distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
        case IntDistribution(log=True):
            low, high = math.log(distribution.low - 0.5), math.log(distribution.high + 0.5)
            return min(max(round(math.exp(low + u * (high - low))), distribution.low), distribution.high)
        case IntDistribution():
            steps = (distribution.high - distribution.low) // distribution.step + 1
            return distribution.low + distribution.step * min(int(u * steps), steps - 1)
        case FloatDistribution(log=True):
            low, high = math.log(distribution.low), math.log(distribution.high)
            return min(max(math.exp(low + u * (high - low)), distribution.low), distribution.high)
        case FloatDistribution():
            return distribution.low + u * (distribution.high - distribution.low)
    raise TypeError(f"no unit range for a {type(distribution).__name__}")


def to_unit(distribution: BaseDistribution, value: Any) -> float:
    """A share of the range at which `from_unit` gives `value`."""
    match distribution:
        case IntDistribution(log=True):
            low, high = math.log(distribution.low - 0.5), math.log(distribution.high + 0.5)
            return float((math.log(value) - low) / (high - low))
        case IntDistribution():
            steps = (distribution.high - distribution.low) // distribution.step + 1
            return float(((value - distribution.low) // distribution.step + 0.5) / steps)
        case FloatDistribution(log=True):
            low, high = math.log(distribution.low), math.log(distribution.high)
            return float((math.log(value) - low) / (high - low)) if high > low else 0.5
        case FloatDistribution():
            width = distribution.high - distribution.low
            return float((value - distribution.low) / width) if width else 0.5
    raise TypeError(f"no unit range for a {type(distribution).__name__}")


def _at(space: SearchSpace, shares: dict[str, float]) -> Configuration:
    return space.configuration(suggest_values(space, lambda name, distribution: from_unit(distribution, shares[name])))


def sobol(ask: Ask, attempt: int) -> Configuration:
    """The next point of a scrambled Sobol sequence (Sobol 1967, Owen 1998), the same sequence for all of an arm."""
    from scipy.stats import qmc  # half a second that no other sampler waits for

    names = list(flat_decisions(ask.space))
    sequence = qmc.Sobol(len(names), scramble=True, seed=ask.stream)
    if ask.number + attempt:  # SciPy cannot go forward by nothing
        sequence.fast_forward(ask.number + attempt)
    point = sequence.random(1)[0]
    return _at(ask.space, dict(zip(names, map(float, point), strict=True)))


def grid(ask: Ask) -> Configuration:
    """A point of the lattice that was not tried, in an order that the arm's seed shuffles; at random once all were.

    A range of numbers stands on the lattice with `levels` values, evenly spaced on its scale, both ends among them.
    """
    tried = {observation.configuration for observation in ask.history} | set(ask.pending)
    points = _lattice(ask.space, ask.arm.levels)
    if points is not None:
        order = np.random.default_rng(ask.stream).permutation(len(points))
        return next((points[i] for i in order if points[i] not in tried), points[int(order[0])])
    rng = np.random.default_rng(ask.seed)
    return ask.space.configuration(
        suggest_values(ask.space, lambda _, d: (values := _levels(d, ask.arm.levels))[int(rng.integers(len(values)))])
    )


@lru_cache(maxsize=4)
def _lattice(space: SearchSpace, levels: int) -> tuple[Configuration, ...] | None:
    """Every point of the lattice once, None if there are too many."""
    decisions = flat_decisions(space)
    if math.prod(len(_levels(d, levels)) for d in decisions.values()) > LATTICE:
        return None
    return tuple(dict.fromkeys(_points(space, decisions, levels)))


def _points(space: SearchSpace, decisions: dict[str, BaseDistribution], levels: int) -> Iterator[Configuration]:
    for values in itertools.product(*(_levels(d, levels) for d in decisions.values())):
        chosen = dict(zip(decisions, values, strict=True))
        try:
            yield space.configuration(suggest_values(space, lambda name, _, chosen=chosen: chosen[name]))
        except InputError:  # values that do not go together
            continue


def _levels(distribution: BaseDistribution, levels: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    steps = np.linspace(0, 1, levels)
    if isinstance(distribution, IntDistribution):
        if (distribution.high - distribution.low) // distribution.step < levels:
            return list(range(distribution.low, distribution.high + 1, distribution.step))
        steps = np.linspace(to_unit(distribution, distribution.low), to_unit(distribution, distribution.high), levels)
    return list(dict.fromkeys(from_unit(distribution, float(u)) for u in steps))


def cma_es(ask: Ask) -> Configuration:
    """CMA-ES (Hansen 2016) over the numbers; choices are drawn at random.

    Generations of `population` finished proposals are told in the order in which they were made, so that the state is
    a function of the history; a number that did not apply counts as the middle of its range.
    """
    from cmaes import CMA

    names = {n: d for n, d in flat_decisions(ask.space).items() if not isinstance(d, CategoricalDistribution)}
    size = max(len(names), 2)  # the package knows no line; the second number is then of no effect
    bounds = np.tile([0.0, 1.0], (size, 1))
    optimiser = CMA(np.full(size, 0.5), 0.25, bounds=bounds, seed=ask.seed % 2**32, population_size=ask.arm.population)
    scored = [observation for observation in ask.history if observation.value is not None]
    for start in range(0, len(scored) - ask.arm.population + 1, ask.arm.population):
        generation = scored[start : start + ask.arm.population]
        optimiser.tell(
            [(_vector(ask.space, names, observation, size), -(observation.value or 0.0)) for observation in generation]
        )
    shares = dict(zip(names, map(float, optimiser.ask()), strict=False))
    rng = np.random.default_rng(ask.seed)
    return _at(ask.space, {**{name: rng.random() for name in flat_decisions(ask.space)}, **shares})


def _vector(space: SearchSpace, names: dict[str, BaseDistribution], observation: Observation, size: int) -> Vector:
    params, _ = flatten(space, observation.configuration)
    vector = np.full(size, 0.5)
    for i, (name, distribution) in enumerate(names.items()):
        if name in params:
            vector[i] = to_unit(distribution, params[name])
    return vector
