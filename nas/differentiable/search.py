"""The differentiable engine: bilevel training of a supernet, epoch by epoch, to a genotype.

Half of the training images train the weights, the other half the architecture parameters; one alpha step comes
before every weight step. All state is in the checkpoint, so that a killed search goes on to the same result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch

from naslab.efficiency.surroundings import random_states_kept
from naslab.errors import InputError, NaslabError
from naslab.nas.arms import Differentiable
from naslab.nas.differentiable.bilevel import Bilevel
from naslab.nas.differentiable.regularisation import penalty
from naslab.nas.differentiable.relaxation import anneal, discrete, entropy, make_relaxation, shares
from naslab.search_spaces import (
    Configuration,
    GradientTask,
    RelaxableSpace,
    SearchSpace,
    Supernet,
    Task,
    TrainingDiverged,
    derive_seed,
    seed_everything,
)
from naslab.search_spaces.common.modules.modes import buffers_kept
from naslab.search_spaces.common.training.checkpoint import load_checkpoint, restore_rng, rng_state, save_checkpoint
from naslab.search_spaces.common.training.choice import Training, Wanted, decide
from naslab.search_spaces.common.training.policy import Policy, PolicyOptions
from naslab.search_spaces.common.training.step import accumulate
from naslab.search_spaces.find import told

WEIGHT_SHARE, ALPHA_SHARE = (0.0, 0.5), (0.5, 1.0)
HELD_OUT_BATCHES = 4
"""Batches of the alphas' half on which the relaxed and the discretised supernet are compared at the end."""


@dataclass(frozen=True)
class SearchEpoch:
    """State of a search after `epoch` (from 1). Per chain: alphas (layers, candidates) and entropy per layer.

    `skip_share` is the mixing weight of the parameter-free candidates, averaged over the layers that have any.
    """

    epoch: int
    alphas: dict[str, list[list[float]]]
    entropy: dict[str, list[float]]
    skip_share: float
    train_loss: float
    held_out_loss: float
    scores: dict[str, float]


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and how it got there. `candidates` names the columns of the alphas."""

    genotype: Configuration
    candidates: dict[str, tuple[str, ...]]
    trajectory: tuple[SearchEpoch, ...]
    relaxed_loss: float
    discrete_loss: float
    policy: Mapping[str, Any]

    @property
    def scores(self) -> dict[str, float]:
        """The supernet's own scores at the end."""
        return self.trajectory[-1].scores

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the ledger."""
        return {
            "genotype": self.genotype.as_dict(),
            "candidates": {name: list(names) for name, names in self.candidates.items()},
            "trajectory": [asdict(epoch) for epoch in self.trajectory],
            "relaxed_loss": self.relaxed_loss,
            "discrete_loss": self.discrete_loss,
            "supernet_scores": self.scores,
            "policy": dict(self.policy),
        }


def searchable(space: SearchSpace, task: Task, arm: Differentiable) -> tuple[RelaxableSpace, GradientTask]:
    """Space and task, if the arm can search them.

    Raises:
        InputError: a space without a supernet, or with a task that is no GradientTask; `partial_channels` that do not
            fit; a half of the training set that has no batch; a float16 policy, or batches in parts.
    """
    if not isinstance(space, RelaxableSpace):
        raise InputError(f"space {space.name} has no supernet; use an engine: optuna arm")
    if not isinstance(task, GradientTask):
        raise InputError(f"task of space {space.name} is no GradientTask; use an engine: optuna arm")
    if arm.partial_channels > 1:
        _check_width(space, arm.partial_channels)
    for share in (WEIGHT_SHARE, ALPHA_SHARE):
        if told(f"task of space {space.name}: num_batches", partial(task.num_batches, share)) < 1:
            raise InputError(f"task of space {space.name}: no batch in a half of the training set")
    asked = asked_policy(task)
    if asked is not None and asked.precision == "float16":
        raise InputError("task.policy.precision: a search by gradient has no float16; use bfloat16 or float32")
    if asked is not None and asked.accumulation > 1:
        raise InputError("task.policy.accumulation: a search by gradient takes whole batches; use 1")
    return space, task


def _check_width(space: RelaxableSpace, partial_channels: int) -> None:
    try:
        with torch.device("meta"):
            space.supernet(lambda alpha: alpha, partial_channels)
    except NaslabError:
        raise
    except Exception:  # noqa: BLE001 - some supernets need real values to be built; the search gives them
        return


def asked_policy(task: Task) -> PolicyOptions | None:
    """What the task's options say of the policy; None of a task without."""
    asked = getattr(task.options, "policy", None)
    return asked if isinstance(asked, PolicyOptions) else None


def search(
    space: SearchSpace, task: Task, arm: Differentiable, seed: int, checkpoint: Path | None = None
) -> Generator[SearchEpoch, None, SearchResult]:
    """Search `space` by gradient, yielding after every epoch; the generator's return value is the result.

    Args:
        seed: decides initialisation, order and augmentation.
        checkpoint: folder; when it holds a checkpoint, the search goes on from there.

    Raises:
        InputError: see `searchable`.
        TrainingDiverged: a loss is not finite.
    """
    run = _Search(*searchable(space, task, arm), arm, seed)
    done = run.resume(checkpoint)
    for epoch in range(done, arm.epochs):
        record = run.epoch(epoch)
        if checkpoint is not None:
            save_checkpoint(checkpoint, run.state(epoch + 1))
        yield record
    return run.result()


def search_policy(
    task: GradientTask, supernet: Supernet, optimiser: torch.optim.Optimizer, seed: int, epochs: int
) -> Policy:
    """The task's policy as a search can follow it: nothing is compiled, since mixing weights change all the time."""
    if (asked := asked_policy(task)) is None:
        return Policy()
    alone = replace(Wanted.by(task), trainings=1)  # a study has many trainings, but few searches
    alone = replace(alone, asked=asked.model_copy(update={"compile": "off"}))
    wanted = alone.of(epochs * task.num_batches(WEIGHT_SHARE), supernet=True)
    batches = lambda model, optimiser, epoch: task.batches(seed, epoch, WEIGHT_SHARE)  # noqa: E731
    loss = lambda model, batch: cast(Supernet, model).loss(batch)  # noqa: E731
    policy = decide(wanted, Training(supernet, optimiser, batches, loss))
    supernet.zero_grad(set_to_none=True)  # a copy's heads may hold the original's alphas
    return policy


class _Search:
    """One search in progress: supernet, two optimisers, the trajectory so far."""

    def __init__(self, space: RelaxableSpace, task: GradientTask, arm: Differentiable, seed: int) -> None:
        self.space, self.task, self.arm, self.seed = space, task, arm, seed
        seed_everything(derive_seed(seed, "search"))
        self.relaxation = make_relaxation(arm, task.device)
        self.supernet: Supernet = space.supernet(self.relaxation, arm.partial_channels).to(task.device)
        self.weight_optimiser = task.optimiser(self.supernet, self.supernet.weights())
        self.alpha_optimiser = torch.optim.Adam(
            self.supernet.architecture(),
            lr=arm.alpha.learning_rate,
            betas=arm.alpha.betas,
            weight_decay=arm.alpha.weight_decay,
        )
        self.trajectory: list[SearchEpoch] = []
        self.policy = Policy()
        self.progress = torch.zeros((), device=task.device)  # from 0 to 1, as the penalties read it

    def state(self, epoch: int) -> dict[str, Any]:
        """Everything that the rest of the search depends on."""
        return {
            "epoch": epoch,
            "supernet": self.supernet.state_dict(),
            "weight_optimiser": self.weight_optimiser.state_dict(),
            "alpha_optimiser": self.alpha_optimiser.state_dict(),
            "rng": rng_state(self.task.device),
            "policy": self.policy.to_dict(),
            "trajectory": [asdict(record) for record in self.trajectory],
        }

    def resume(self, checkpoint: Path | None) -> int:
        """Take up a checkpoint if there is one; epochs already done."""
        state = load_checkpoint(checkpoint) if checkpoint is not None else None
        if state is None:
            self.policy = search_policy(self.task, self.supernet, self.weight_optimiser, self.seed, self.arm.epochs)
            self.policy.place(self.supernet, self.weight_optimiser)
            return 0
        self.policy = Policy(**state.get("policy", {}))
        self.supernet.load_state_dict(state["supernet"])
        self.weight_optimiser.load_state_dict(state["weight_optimiser"])
        self.alpha_optimiser.load_state_dict(state["alpha_optimiser"])
        self.policy.place(self.supernet, self.weight_optimiser)
        restore_rng(state["rng"], self.task.device)
        self.trajectory = [SearchEpoch(**record) for record in state["trajectory"]]
        return int(state["epoch"])

    def epoch(self, epoch: int) -> SearchEpoch:
        """Train alphas and weights through one epoch of the weights' half."""
        steps = self.task.num_batches(WEIGHT_SHARE)
        held_out = self._alpha_batches(epoch * steps)
        totals: dict[str, torch.Tensor] = {}  # not all losses: small numbers kept between large matrices scatter memory
        self.supernet.train()
        with self.policy.blocks(self.supernet):
            for step, training in enumerate(self._batches(epoch)):
                progress = (epoch + step / steps) / self.arm.epochs
                anneal(self.relaxation, self.arm, progress)
                self.progress.fill_(progress)
                self.task.set_learning_rate(self.weight_optimiser, progress)
                if epoch >= self.arm.warmup_epochs:
                    self._alpha_step(next(held_out), training)
                accumulate(totals, {"train": self._weight_step(training, progress)})
        means = {"train": float(totals["train"]) / steps, "held_out": self._held_out_loss()}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise TrainingDiverged(f"the search's {name} loss is {mean} in epoch {epoch + 1}")
        scores = self.task.evaluate(self.supernet, "validation", full=False)
        self.trajectory.append(self._record(epoch + 1, means["train"], means["held_out"], scores))
        return self.trajectory[-1]

    def _batches(self, epoch: int) -> Iterator[Any]:
        return map(self.policy.laid_out, self.task.batches(self.seed, epoch, WEIGHT_SHARE))

    def _alpha_batches(self, taken: int) -> Iterator[Any]:
        """Batches of the alphas' half from where the last epoch left off, epoch after epoch without end."""
        first, skip = divmod(taken, self.task.num_batches(ALPHA_SHARE))
        endless = itertools.chain.from_iterable(
            self.task.batches(self.seed, epoch, ALPHA_SHARE) for epoch in itertools.count(first)
        )
        return map(self.policy.laid_out, itertools.islice(endless, skip, None))

    @cached_property
    def bilevel(self) -> Bilevel:
        """Of the policy, which is decided by then."""
        supernet, arm, progress, policy, device = self.supernet, self.arm, self.progress, self.policy, self.task.device
        regulariser = lambda: penalty(supernet, arm, progress)  # noqa: E731
        return Bilevel(supernet, regulariser, lambda: policy.forward(device), records=policy.records)

    def _alpha_step(self, held_out: Any, training: Any) -> None:
        if self.arm.order == "first":
            gradients = self.bilevel.first_order(held_out)
        else:
            rate = self.weight_optimiser.param_groups[0]["lr"]
            gradients = self.bilevel.second_order(held_out, training, rate)
        for alpha, gradient in zip(self.supernet.architecture(), gradients, strict=True):
            alpha.grad = gradient
        self.alpha_optimiser.step()
        self.alpha_optimiser.zero_grad(set_to_none=True)

    def _weight_step(self, training: Any, progress: float) -> torch.Tensor:
        self.supernet.before_step()
        loss, gradients = self.bilevel.weights(training)
        for weight, gradient in zip(self.supernet.weights(), gradients, strict=True):
            weight.grad = gradient
        self.weight_optimiser.step()
        self.supernet.after_step(progress)
        return loss.clone()

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        """Mean loss on a few batches of the alphas' half, batch statistics and random numbers left alone."""
        order = derive_seed(self.seed, "held out")
        batches = itertools.islice(self.task.batches(order, 0, ALPHA_SHARE), HELD_OUT_BATCHES)
        with buffers_kept(self.supernet), random_states_kept(self.task.device):
            losses = torch.stack([self.supernet.loss(batch) for batch in batches])
        return float(losses.mean())

    def _record(self, epoch: int, train_loss: float, held_out_loss: float, scores: dict[str, float]) -> SearchEpoch:
        alphas = {name: alpha.detach().cpu() for name, alpha in self.supernet.alphas.items()}
        return SearchEpoch(
            epoch=epoch,
            alphas={name: alpha.tolist() for name, alpha in alphas.items()},
            entropy={name: entropy(shares(alpha, self.arm)).tolist() for name, alpha in alphas.items()},
            skip_share=self._skip_share(alphas),
            train_loss=train_loss,
            held_out_loss=held_out_loss,
            scores=scores,
        )

    def _skip_share(self, alphas: dict[str, torch.Tensor]) -> float:
        layers = []
        for name, alpha in alphas.items():
            skipping = self.supernet.skipping(name).cpu()
            layers.append((shares(alpha, self.arm) * skipping).sum(-1)[skipping.any(-1)])
        found = torch.cat(layers)
        return float(found.mean()) if len(found) else 0.0

    def result(self) -> SearchResult:
        """The genotype by argmax, and what discretising costs the supernet before any retraining."""
        chosen = {
            chain.name: tuple(chain.choices[i] for i in self.supernet.alphas[chain.name].argmax(-1).tolist())
            for chain in self.space.chains()
        }
        self.supernet.train()
        relaxed = self._held_out_loss()
        self.supernet.relaxation = discrete
        discretised = self._held_out_loss()
        self.supernet.relaxation = self.relaxation
        return SearchResult(
            genotype=self.space.genotype(chosen),
            candidates={chain.name: chain.choices for chain in self.space.chains()},
            trajectory=tuple(self.trajectory),
            relaxed_loss=relaxed,
            discrete_loss=discretised,
            policy=self.policy.to_dict(),
        )
