"""What an ask-and-tell arm tries next: a pure function of the space, the history and a seed.

Nothing but copies is kept between calls, so a study resumes without repeating itself and a recorded one replays.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from optuna.distributions import CategoricalDistribution

from naslab.errors import InputError, NaslabError
from naslab.nas import numeric, optuna_samplers
from naslab.nas.arms import Sampled
from naslab.nas.evolution import evolve, mutate
from naslab.nas.history import Ask, Observation, random_configuration
from naslab.search_spaces import Configuration, SearchSpace, derive_seed

__all__ = ["Observation", "check_sampler", "enqueued", "propose", "random_configuration"]

REDRAWS = 20
CHEAP = frozenset({"random", "grid", "qmc", "cmaes", "evolution"})
"""Samplers that draw again without fitting a model to the whole history again."""

Draw = Callable[[Ask, int], Configuration]
"""A sampler: what to try, on its how-manieth attempt at one that was not tried before."""


def _random(ask: Ask, attempt: int) -> Configuration:
    return random_configuration(ask.space, ask.seed)


SAMPLERS: dict[str, Draw] = {
    "random": _random,
    "grid": lambda ask, attempt: numeric.grid(ask),
    "qmc": numeric.sobol,
    "tpe": lambda ask, attempt: optuna_samplers.tpe(ask),
    "gp": lambda ask, attempt: optuna_samplers.gaussian_process(ask),
    "cmaes": lambda ask, attempt: numeric.cma_es(ask),
    "nsga2": lambda ask, attempt: optuna_samplers.nsga2(ask),
    "nsga3": lambda ask, attempt: optuna_samplers.nsga3(ask),
    "evolution": lambda ask, attempt: evolve(ask),
}


def propose(
    arm: Sampled,
    space: SearchSpace,
    history: Sequence[Observation],
    pending: Sequence[Configuration],
    seed: int,
    *,
    stream: int = 0,
    warm: Sequence[Observation] = (),
    tried: Collection[Configuration] | None = None,
) -> Configuration:
    """The arm's next configuration, one not tried or pending unless nothing else was found.

    The configurations that the arm enqueues come first. A sampler that has settled would never leave its favourite, and
    a trial that repeats one is paid for nothing. So from a proposal that was tried before one decision after another is
    drawn anew, REDRAWS times, or the sampler draws again where that costs nothing; what the space refuses is drawn
    again by the sampler. Then ten times as often one is drawn at random.

    Args:
        history: the arm's finished proposals in the order in which they were made.
        pending: its running ones.
        seed: of this proposal; the same arguments give the same answer.
        stream: the same for all proposals of an arm, of those samplers that go along a sequence.
        warm: what another study measured of the same space; the sampler knows it, and it may be tried here, too.
        tried: the configurations of history and pending, where the caller keeps them up.
    """
    number = len(history) + len(pending)
    queue = enqueued(arm, space)
    if number < len(queue):
        return queue[number]
    if tried is None:
        tried = {observation.configuration for observation in history} | set(pending)
    ask = Ask(arm, space, (*warm, *history) if warm else history, pending, number, seed, stream)
    chosen: Draw = SAMPLERS.get(arm.sampler, lambda ask, attempt: optuna_samplers.own(ask))
    proposal = None
    for attempt in range(11 * REDRAWS):
        again = replace(ask, seed=derive_seed(seed, attempt) if attempt else seed)
        try:
            if attempt >= REDRAWS:
                proposal = _random(again, attempt)
            elif proposal is not None and arm.sampler not in CHEAP:
                proposal = mutate(space, proposal, np.random.default_rng(again.seed))
            else:
                proposal = chosen(again, attempt)
        except InputError:  # values that do not go together
            continue
        if proposal not in tried:
            return proposal
    return proposal or random_configuration(space, seed)


def enqueued(arm: Sampled, space: SearchSpace) -> tuple[Configuration, ...]:
    """The configurations that the arm tries first, each once; what they leave out is the reference's.

    Raises:
        InputError: one that the space refuses.
    """
    found: dict[Configuration, None] = {}
    for place, given in enumerate(arm.enqueue):
        try:
            found[space.configuration({**_applicable(space, given), **given})] = None
        except InputError as error:
            raise InputError(f"arm {arm.name}: enqueue.{place}: {error}") from None
    return tuple(found)


def _applicable(space: SearchSpace, given: dict[str, object]) -> dict[str, object]:
    """The reference's values of what applies beside the given ones and is not among them."""
    chosen: dict[str, object] = {}
    for parameter in space.parameters:
        values = {**space.reference, **given}
        if parameter.name in values and (parameter.when is None or parameter.when.holds(chosen)):
            chosen[parameter.name] = values[parameter.name]
    return chosen


def check_sampler(arm: Sampled, space: SearchSpace, several: bool) -> None:
    """Refuse a sampler that cannot search the space, before anything runs.

    Args:
        several: whether the objective is a front.

    Raises:
        InputError: a package that is missing, a class that is no sampler or cannot be made, or a space or
            objective that it cannot take.
    """
    enqueued(arm, space)
    if ":" in arm.sampler:
        try:
            optuna_samplers.make_own(arm.sampler, 0)
        except NaslabError as error:
            raise InputError(str(error)) from None
    if arm.sampler != "cmaes":
        return
    if importlib.util.find_spec("cmaes") is None:
        raise InputError(f"arm {arm.name}: sampler cmaes needs the package cmaes: pip install 'naslab[cmaes]'")
    if several:
        raise InputError(f"arm {arm.name}: sampler cmaes knows one objective; for a front use tpe, gp, nsga2 or nsga3")
    if all(isinstance(d, CategoricalDistribution) for d in numeric.flat_decisions(space).values()):
        raise InputError(
            f"arm {arm.name}: sampler cmaes needs numbers, and space {space.name} has choices alone; use tpe"
        )
