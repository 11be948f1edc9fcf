"""What an ask-and-tell arm tries next: a pure function of the space, the history and a seed.

Nothing is kept between calls, so a study resumes without repeating itself and a recorded one replays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from nas.arms import Sampled
from nas.encoding import distributions, flatten, suggest_values
from search_spaces import Chain, Configuration, SearchSpace, derive_seed
from search_spaces.parameters import Value

REDRAWS = 20


@dataclass(frozen=True)
class Told:
    """A proposal of the arm and what came of it; `value` is None where it failed."""

    configuration: Configuration
    value: float | None


def propose(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    """The arm's next configuration, one not tried or pending unless nothing else was found.

    A proposal that was tried before is drawn again REDRAWS times by the sampler, then ten times as often at random:
    a sampler that has settled would never leave its favourite, and a trial that repeats one is paid for nothing.

    Args:
        history: the arm's finished proposals in the order in which they were made.
        pending: its running ones.
        seed: of this proposal; the same arguments give the same answer.
    """
    tried = {told.configuration for told in history} | set(pending)
    chosen = {"random": _random, "tpe": _tpe, "evolution": _evolution}[arm.sampler]
    for attempt in range(11 * REDRAWS):
        draw = chosen if attempt < REDRAWS else _random
        proposal = draw(arm, space, history, pending, derive_seed(seed, attempt) if attempt else seed)
        if proposal not in tried:
            return proposal
    return proposal


def _random(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    return space.random(np.random.default_rng(seed))


def _tpe(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    """Optuna's tree-structured Parzen estimator (Bergstra 2011) over an in-memory copy of the history."""
    startup = max(2, min(10, (arm.trials or 40) // 4))
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for told in history:
        study.add_trial(_frozen(space, told.configuration, told.value))
    for configuration in pending:
        params, dists = flatten(space, configuration)
        study.enqueue_trial(params)
        asked = study.ask()
        for name, distribution in dists.items():
            asked._suggest(name, distribution)
    trial = study.ask()

    def suggest(name: str, distribution: BaseDistribution) -> Any:
        return trial._suggest(name, distribution)

    return space.configuration(suggest_values(space, suggest))


def _frozen(space: SearchSpace, configuration: Configuration, value: float | None) -> optuna.trial.FrozenTrial:
    params, dists = flatten(space, configuration)
    state = TrialState.FAIL if value is None else TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, value=value, params=params, distributions=dists)


def _evolution(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    """Regularised evolution (Real et al. 2019): mutate the best of a tournament among the youngest individuals."""
    rng = np.random.default_rng(seed)
    alive = [told for told in history if told.value is not None][-arm.population :]
    if len(history) + len(pending) < arm.population or not alive:
        return space.random(rng)
    chosen = rng.choice(len(alive), size=min(arm.tournament, len(alive)), replace=False)
    parent = max((alive[i] for i in chosen), key=lambda told: told.value or 0.0)
    return mutate(space, parent.configuration, rng)


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
