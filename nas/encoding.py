"""Configurations as flat parameters with Optuna distributions, and back: one categorical per layer of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from naslab.search_spaces import Categorical, Chain, Configuration, Float, Integer, Parameter, SearchSpace
from naslab.search_spaces.parameters import Value


class Suggest(Protocol):
    """How an ask-and-tell sampler is asked for one value."""

    def __call__(self, name: str, distribution: BaseDistribution) -> Any:
        """The value proposed for `name`."""


def distributions(parameter: Parameter, proposed_only: bool = True) -> dict[str, BaseDistribution]:
    """The flat decisions that a parameter stands for. All choices, or only those that engines propose."""
    match parameter:
        case Chain():
            return {
                f"{parameter.name}[{i}]": CategoricalDistribution(parameter.choices) for i in range(parameter.length)
            }
        case Categorical():
            choices = parameter.proposed if proposed_only else parameter.choices
            return {parameter.name: CategoricalDistribution(choices)}
        case Integer():
            step = 1 if parameter.log else parameter.step
            last = parameter.high - (parameter.high - parameter.low) % step  # Optuna warns where steps do not end there
            return {parameter.name: IntDistribution(parameter.low, last, parameter.log, step)}
        case Float():
            return {parameter.name: FloatDistribution(parameter.low, parameter.high, parameter.log)}
    raise TypeError(f"{parameter.name}: no distribution for a {type(parameter).__name__}")


def suggest_values(space: SearchSpace, suggest: Suggest) -> dict[str, Value]:
    """Ask for every active parameter in the space's order, so that conditions see what was chosen before."""
    chosen: dict[str, Value] = {}
    for parameter in space.parameters:
        if parameter.when is None or parameter.when.holds(chosen):
            drawn = [suggest(name, distribution) for name, distribution in distributions(parameter).items()]
            chosen[parameter.name] = tuple(drawn) if isinstance(parameter, Chain) else drawn[0]
    return chosen


def flatten(
    space: SearchSpace, configuration: Configuration, proposed_only: bool = True
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """A configuration's flat parameters and their distributions, as Optuna stores a trial.

    Args:
        proposed_only: whether the distributions hold only what engines propose (a sampler's view) or every choice
            (the ledger's, where a published setting stands beside the proposals).
    """
    params: dict[str, Any] = {}
    dists: dict[str, BaseDistribution] = {}
    for parameter in space.parameters:
        if parameter.name in configuration:
            value = configuration[parameter.name]
            decisions = distributions(parameter, proposed_only)
            params.update(zip(decisions, value if isinstance(value, tuple) else (value,), strict=True))
            dists.update(decisions)
    return params, dists


def unflatten(space: SearchSpace, params: Mapping[str, Any]) -> Configuration:
    """The configuration that `flatten` came from."""
    chosen: dict[str, Any] = {}
    for parameter in space.parameters:
        names = list(distributions(parameter))
        if names[0] in params:
            values = tuple(params[name] for name in names)
            chosen[parameter.name] = values if isinstance(parameter, Chain) else values[0]
    return space.configuration(chosen)
