"""Arms: the searches that a study compares, as its file states them."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from optuna.samplers import BaseSampler
from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from naslab.errors import InputError
from naslab.nas.names import Name, Names
from naslab.search_spaces import Options, Unless, When
from naslab.search_spaces.options import RECORDED
from naslab.search_spaces.user_modules import import_from

Pruner = Literal["none", "median", "percentile", "asha", "hyperband"]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
GUMBEL = When("relaxation", ("gumbel",))


class AlphaOptimiser(Options):
    """Adam over the architecture parameters; the defaults are DARTS's (Liu 2019)."""

    learning_rate: float = Field(3e-4, gt=0)
    betas: tuple[Decay, Decay] = (0.5, 0.999)
    weight_decay: float = Field(1e-3, ge=0)


class Differentiable(Options):
    """Gradient descent on relaxed architecture parameters, bilevel (DARTS and its family)."""

    engine: Literal["differentiable"]
    name: Name
    epochs: int = Field(gt=0)
    order: Literal["first", "second"] = "first"
    relaxation: Literal["softmax", "sigmoid", "gumbel"] = "softmax"
    gumbel_hard: Annotated[bool, GUMBEL] = True
    """GDAS samples one candidate with a straight-through gradient; SNAS (false) samples soft weights."""
    temperature: Annotated[tuple[Positive, Positive], GUMBEL] = (10.0, 0.1)
    """Gumbel temperature at the start and at the end of the search, geometric in between."""
    partial_channels: int = Field(1, ge=1)
    entropy_weight: float = Field(0.0, ge=0)
    """Weight of the mixing weights' mean entropy in the alpha loss, raised linearly from 0."""
    skip_weight: float = Field(0.0, ge=0)
    """Weight of the parameter-free candidates' mean share in the alpha loss, faded linearly to 0."""
    zero_one_weight: Annotated[float, When("relaxation", ("sigmoid",))] = Field(0.0, ge=0)
    """Weight of FairDARTS's zero-one loss, which pushes sigmoid weights to 0 or 1 (its default is 10)."""
    warmup_epochs: int = Field(0, ge=0)
    """Epochs at the start in which only the weights are trained."""
    alpha: AlphaOptimiser = AlphaOptimiser()
    searches: int = Field(1, ge=1)
    """Independent repetitions with different seeds; the one with the best supernet score gives the finalist."""

    @model_validator(mode="after")
    def _alphas_are_trained(self, info: ValidationInfo) -> Self:
        if self.warmup_epochs >= self.epochs and info.context != RECORDED:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} of {self.epochs} epochs leave none for the alphas")
        return self


SAMPLERS = ("random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2", "nsga3", "evolution")


def _known_sampler(name: str) -> str:
    if name not in SAMPLERS and ":" not in name:
        near = difflib.get_close_matches(name, SAMPLERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no such sampler; use {', '.join(SAMPLERS)} or module:Class{hint}")
    return name


def own_sampler(name: str) -> type[BaseSampler]:
    """The sampler class that `module:Class` names, looked for in the current folder too.

    Raises:
        InputError: it cannot be imported, or is no subclass of `optuna.samplers.BaseSampler`.
    """
    place, _, kind = name.partition(":")
    import_from(Path.cwd())
    try:
        found = getattr(importlib.import_module(place), kind, None)
    except Exception as error:  # noqa: BLE001 - a module may raise anything
        why = " ".join(str(error).split())
        raise InputError(f"sampler: cannot import {place!r} of {name!r}: {why or type(error).__name__}") from None
    if not (isinstance(found, type) and issubclass(found, BaseSampler)):
        raise InputError(f"sampler: {name!r} names no subclass of optuna.samplers.BaseSampler")
    return found


class Sampled(Options):
    """Ask-and-tell search: Optuna's samplers, or regularised evolution (Real 2019)."""

    engine: Literal["optuna"]
    name: Name
    sampler: Annotated[str, AfterValidator(_known_sampler)]
    """random, grid, qmc, tpe, gp, cmaes, nsga2, nsga3, evolution, or `module:Class`: a subclass of Optuna's."""
    trials: int | None = Field(None, gt=0)
    device_hours: float | None = Field(None, gt=0)
    """Stop asking once the arm's trials, failed and pruned ones too, have spent this."""
    pruner: Pruner = "none"
    reduction: Annotated[int, When("pruner", ("asha", "hyperband"))] = Field(2, ge=2)
    """ASHA's eta: one in so many goes on from each of its rungs."""
    first_rung: Annotated[int | None, When("pruner", ("asha", "hyperband"))] = Field(None, ge=1)
    """The epoch of the first rung; by default the first that is reported."""
    keep: Annotated[float, When("pruner", ("percentile",))] = Field(25.0, gt=0, lt=100)
    """The best share, in percent, that goes on."""
    startup: Annotated[int, When("pruner", ("median", "percentile"))] = Field(3, ge=1)
    """How many proposals must have been scored at an epoch before another is pruned there."""
    patience: Annotated[int, Unless("pruner", ("none",))] = Field(0, ge=0)
    """Nothing is pruned whose best score is among its last so many."""
    order: Annotated[Literal["proposals", "reports"], Unless("pruner", ("none",))] = "proposals"
    """At a rung a proposal is held against those proposed before it, and waits for them; or whoever came before."""
    finalists_by: Literal["score", "score_per_hour"] = "score"
    """What the best proposals are chosen by: validation score, or that per hour of the proposal's own run."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Configurations that are tried first; what they leave out is the reference's."""
    warm_start: Names = ()
    """Studies in the same storage, of the same space, whose measurements the sampler knows from the start."""
    levels: Annotated[int, When("sampler", ("grid",))] = Field(5, ge=2)
    """How many values of a range of numbers are on the lattice."""
    population: Annotated[int, When("sampler", ("evolution", "nsga2", "nsga3", "cmaes"))] = Field(8, ge=2)
    """Of evolution: size of the ageing population; of NSGA-II, NSGA-III and CMA-ES: size of a generation."""
    tournament: Annotated[int, When("sampler", ("evolution",))] = Field(3, ge=1)
    """How many of the population are drawn; the best of them is the parent."""


class Grid(Options):
    """A sweep: every point of a product of values, each trained with every seed and ranked. Nothing is searched."""

    engine: Literal["grid"]
    name: Name
    vary: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(min_length=1)
    """Values by parameter; all combinations are points."""
    base: dict[str, Any] = {}
    """What every point has in place of the reference's value."""


Arm = Annotated[Differentiable | Sampled | Grid, Field(discriminator="engine")]
