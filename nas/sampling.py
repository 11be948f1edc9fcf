"""What an ask-and-tell arm tries next: a pure function of the space, the history and a seed.

Nothing is kept between calls, so a study resumes without repeating itself and a recorded one replays.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState

from naslab.efficiency.errors import InputError
from naslab.nas.arms import Sampled
from naslab.nas.encoding import distributions, flatten, suggest_values
from naslab.nas.pareto import first_front
from naslab.search_spaces import Categorical, Chain, Configuration, SearchSpace, derive_seed
from naslab.search_spaces.parameters import Value

REDRAWS = 20
REFUSALS = 1000
"""How often a draw that the space refuses is drawn anew."""


@dataclass(frozen=True)
class Told:
    """A proposal of the arm and what came of it; `value` is None where it failed or was not trained.

    `violations` say by how much each constraint of the study is broken, positive where it is. `cost` is what the value
    is traded against, less is better; None where the value alone counts.
    """

    configuration: Configuration
    value: float | None
    violations: tuple[float, ...] = ()
    cost: float | None = None


def propose(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    """The arm's next configuration, one not tried or pending unless nothing else was found.

    A proposal that was tried before, or that the space refuses, is drawn again REDRAWS times by the sampler, then ten
    times as often at random: a sampler that has settled would never leave its favourite, and a trial that repeats one
    is paid for nothing.

    Args:
        history: the arm's finished proposals in the order in which they were made.
        pending: its running ones.
        seed: of this proposal; the same arguments give the same answer.
    """
    tried = {told.configuration for told in history} | set(pending)
    chosen = {"random": _random, "tpe": _tpe, "nsga2": _nsga2, "evolution": _evolution}[arm.sampler]
    proposal = None
    for attempt in range(11 * REDRAWS):
        draw = chosen if attempt < REDRAWS else _random
        try:
            proposal = draw(arm, space, history, pending, derive_seed(seed, attempt) if attempt else seed)
        except InputError:  # values that do not go together
            continue
        if proposal not in tried:
            return proposal
    return proposal or random_configuration(space, seed)


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


def _random(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    return random_configuration(space, seed)


def _tpe(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    """Optuna's tree-structured Parzen estimator (Bergstra 2011; of several objectives, Ozaki 2022)."""
    startup = max(2, min(10, (arm.trials or 40) // 4))
    options: dict[str, Any] = {"seed": seed, "n_startup_trials": startup, "constant_liar": True}
    return _ask(_constrained(TPESampler, history, options), space, history, pending)


def _nsga2(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    """Optuna's NSGA-II (Deb et al. 2002): the arm's `population` proposals are a generation."""
    options: dict[str, Any] = {"seed": seed, "population_size": arm.population}
    sampler = _constrained(NSGAIISampler, history, options)
    return _ask(sampler, space, history, (), population=arm.population)


def _constrained(kind: type[BaseSampler], history: Sequence[Told], options: dict[str, Any]) -> BaseSampler:
    """The sampler, told of constraints where the study has any; Optuna 5 finds them without being told, and warns."""
    if any(told.violations for told in history):
        options["constraints_func"] = lambda trial: trial.system_attrs["constraints"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(**options)


def _ask(
    sampler: BaseSampler,
    space: SearchSpace,
    history: Sequence[Told],
    pending: Sequence[Configuration],
    population: int | None = None,
) -> Configuration:
    """What `sampler` proposes after an in-memory copy of the history."""
    several = any(told.cost is not None for told in history)
    study = optuna.create_study(directions=["maximize", "minimize"] if several else ["maximize"], sampler=sampler)
    complete = 0
    for told in (told for told in history if _proposable(space, told.configuration)):
        attributes: dict[str, Any] = {"constraints": list(told.violations)} if told.violations else {}
        if population is not None:
            attributes["NSGAIISampler:generation"] = complete // population
        trial = _frozen(space, told, several, attributes)
        complete += trial.state == TrialState.COMPLETE
        study.add_trial(trial)
    for configuration in (one for one in pending if _proposable(space, one)):
        params, dists = flatten(space, configuration)
        study.enqueue_trial(params)
        asked = study.ask()
        for name, distribution in dists.items():
            asked._suggest(name, distribution)
    trial_asked = study.ask()

    def suggest(name: str, distribution: BaseDistribution) -> Any:
        return trial_asked._suggest(name, distribution)

    return space.configuration(suggest_values(space, suggest))


def _proposable(space: SearchSpace, configuration: Configuration) -> bool:
    """Whether a sampler could have drawn it; not where the space maps what was drawn onto a setting outside."""
    return all(
        configuration[parameter.name] in parameter.proposed
        for parameter in space.parameters
        if isinstance(parameter, Categorical) and parameter.name in configuration
    )


def _frozen(space: SearchSpace, told: Told, several: bool, attributes: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A proposal as Optuna keeps it: complete, failed, or pruned where a constraint kept it from being trained."""
    params, dists = flatten(space, told.configuration)
    values: list[float] | None = None
    if told.value is not None and not (several and told.cost is None):
        values = [told.value] if told.cost is None else [told.value, told.cost]
    broken = any(violation > 0 for violation in told.violations)
    state = TrialState.COMPLETE if values else TrialState.PRUNED if broken else TrialState.FAIL
    return optuna.trial.create_trial(
        state=state, values=values, params=params, distributions=dists, system_attrs=attributes
    )


def _evolution(
    arm: Sampled, space: SearchSpace, history: Sequence[Told], pending: Sequence[Configuration], seed: int
) -> Configuration:
    """Regularised evolution (Real et al. 2019): mutate the best of a tournament among the youngest individuals.

    With a cost, the best are the tournament's Pareto front, of which one is drawn.
    """
    rng = np.random.default_rng(seed)
    alive = [told for told in history if told.value is not None][-arm.population :]
    if len(history) + len(pending) < arm.population or not alive:
        return random_configuration(space, seed)
    chosen = rng.choice(len(alive), size=min(arm.tournament, len(alive)), replace=False)
    tournament = [alive[i] for i in chosen]
    if any(told.cost is not None for told in tournament):
        front = first_front([(told.value or 0.0, told.cost or 0.0) for told in tournament])
        parent = tournament[front[int(rng.integers(len(front)))]]
    else:
        parent = max(tournament, key=lambda told: told.value or 0.0)
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
