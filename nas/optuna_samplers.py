"""Optuna's samplers, and a user's own, asked after an in-memory copy of the arm's history."""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from naslab.errors import InputError, NaslabError
from naslab.nas.arms import own_sampler
from naslab.nas.encoding import flatten, suggest_values
from naslab.nas.history import Ask, Observation
from naslab.nas.quiet import optuna_warns_only
from naslab.search_spaces import Categorical, Configuration, SearchSpace


def tpe(ask: Ask) -> Configuration:
    """The tree-structured Parzen estimator (Bergstra 2011; of several objectives, Ozaki 2022)."""
    options: dict[str, Any] = {"seed": ask.seed, "n_startup_trials": _startup(ask), "constant_liar": True}
    return _propose(_constrained(TPESampler, ask, options), ask, stateless=True)


def gaussian_process(ask: Ask) -> Configuration:
    """Bayesian optimisation with a Gaussian process; parameters that depend on others are drawn at random."""
    options = {"seed": ask.seed, "n_startup_trials": _startup(ask), "warn_independent_sampling": False}
    return _propose(_constrained(GPSampler, ask, options), ask, stateless=True)


def nsga2(ask: Ask) -> Configuration:
    """NSGA-II (Deb et al. 2002): the arm's `population` proposals are a generation."""
    return _genetic(NSGAIISampler, ask)


def nsga3(ask: Ask) -> Configuration:
    """NSGA-III (Deb and Jain 2014): as NSGA-II, with reference points that keep the front spread."""
    return _genetic(NSGAIIISampler, ask)


def own(ask: Ask) -> Configuration:
    """The user's own sampler, `module:Class`; seeded where its constructor takes `seed`."""
    with _users_own(ask.arm.sampler):
        return _propose(make_own(ask.arm.sampler, ask.seed), ask)


def make_own(name: str, seed: int) -> BaseSampler:
    """The sampler that `module:Class` names.

    Raises:
        InputError: see `own_sampler`.
        NaslabError: it cannot be made of a seed, or of nothing.
    """
    kind = own_sampler(name)
    with _users_own(name):
        return kind(**({"seed": seed} if "seed" in inspect.signature(kind).parameters else {}))


@contextmanager
def _users_own(name: str) -> Iterator[None]:
    """What the user's code raises, in one line that names its place."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {' '.join(str(error).split())} ({place.filename}, line {place.lineno})"
        raise NaslabError(f"sampler: {name!r} failed: {what}") from error


def _startup(ask: Ask) -> int:
    return max(2, min(10, (ask.arm.trials or 40) // 4))


def _genetic(kind: type[BaseSampler], ask: Ask) -> Configuration:
    sampler = _constrained(kind, ask, {"seed": ask.seed, "population_size": ask.arm.population})
    return _propose(sampler, ask, generation=f"{kind.__name__}:generation")


def _constrained(kind: Callable[..., BaseSampler], ask: Ask, options: dict[str, Any]) -> BaseSampler:
    """The sampler, with the constraints where the study has any; Optuna 5 finds them by itself, and warns."""
    if any(observation.violations for observation in ask.history):
        options["constraints_func"] = lambda trial: trial.system_attrs["constraints"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(**options)


def _propose(
    sampler: BaseSampler, ask: Ask, *, generation: str | None = None, stateless: bool = False
) -> Configuration:
    """What `sampler` proposes.

    Args:
        generation: under which attribute the sampler looks for the generation of a trial, if it does.
        stateless: whether it looks at finished and running trials alone, and writes nothing down.
    """
    study = _mirror(ask, generation, stateless)
    study.sampler = sampler
    asked = [] if generation else [_running(study, ask.space, c) for c in ask.pending if _proposable(ask.space, c)]
    trial = study.ask()

    def suggest(name: str, distribution: BaseDistribution) -> Any:
        return trial._suggest(name, distribution)

    try:
        return ask.space.configuration(suggest_values(ask.space, suggest))
    finally:
        for one in (*asked, trial):  # the copy serves the next proposal, too; samplers do not look at failed trials
            study._storage.set_trial_state_values(one._trial_id, TrialState.FAIL)


def _running(study: Study, space: SearchSpace, configuration: Configuration) -> optuna.Trial:
    params, dists = flatten(space, configuration)
    study.enqueue_trial(params)
    asked = study.ask()
    for name, distribution in dists.items():
        asked._suggest(name, distribution)
    return asked


@dataclass
class _Mirror:
    """An in-memory Optuna study that holds a history, and grows with it: copying all for each proposal is quadratic."""

    space: SearchSpace
    study: Study
    history: list[Observation] = field(default_factory=list)
    complete: int = 0

    def serves(self, ask: Ask, several: bool) -> bool:
        """Whether the history asked about goes on from the one that is held."""
        return (
            self.space is ask.space
            and len(self.study.directions) == 1 + several
            and self.history == list(ask.history[: len(self.history)])
        )


_mirrors: dict[str, _Mirror] = {}


def _mirror(ask: Ask, generation: str | None, keep: bool) -> Study:
    """The history as an Optuna study; kept for the next proposal only where the sampler leaves nothing in it."""
    several = any(observation.cost is not None for observation in ask.history)
    mirror = _mirrors.get(ask.arm.name) if keep else None
    if mirror is None or not mirror.serves(ask, several):
        directions = [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] if several else [])]
        with optuna_warns_only():
            mirror = _Mirror(ask.space, optuna.create_study(directions=directions))
    if keep:
        _mirrors[ask.arm.name] = mirror
    for observation in ask.history[len(mirror.history) :]:
        mirror.history.append(observation)
        if _proposable(ask.space, observation.configuration):
            attributes: dict[str, Any] = {"constraints": list(observation.violations)} if observation.violations else {}
            if generation is not None:
                attributes[generation] = mirror.complete // ask.arm.population
            trial = _frozen(ask.space, observation, several, attributes)
            mirror.complete += trial.state == TrialState.COMPLETE
            mirror.study.add_trial(trial)
    return mirror.study


def _proposable(space: SearchSpace, configuration: Configuration) -> bool:
    """Whether a sampler could have drawn it; not where the space maps what was drawn onto a setting outside."""
    return all(
        configuration[parameter.name] in parameter.proposed
        for parameter in space.parameters
        if isinstance(parameter, Categorical) and parameter.name in configuration
    )


def _frozen(space: SearchSpace, observation: Observation, several: bool, attributes: dict[str, Any]) -> FrozenTrial:
    """A proposal as Optuna keeps it: complete, failed, or pruned where a constraint kept it from being trained."""
    params, dists = flatten(space, observation.configuration)
    values: Sequence[float] | None = None
    if observation.value is not None and not (several and observation.cost is None):
        values = [observation.value] if observation.cost is None else [observation.value, observation.cost]
    broken = any(violation > 0 for violation in observation.violations)
    state = TrialState.COMPLETE if values else TrialState.PRUNED if broken else TrialState.FAIL
    return create_trial(state=state, values=values, params=params, distributions=dists, system_attrs=attributes)
