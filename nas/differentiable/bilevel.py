"""The gradient of the validation loss in the architecture parameters (DARTS, Liu et al. 2019, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from naslab.efficiency.surroundings import random_states_kept
from naslab.search_spaces import Supernet
from naslab.search_spaces.common.modules.modes import buffers_kept
from naslab.search_spaces.common.training.recording import Recorded, state_of

Penalty = Callable[[], Tensor]
T = TypeVar("T")


class _Losses:
    """Gradients of both losses at the present weights, each a function of a batch."""

    def __init__(
        self, supernet: Supernet, penalty: Penalty, forward: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self.supernet, self.penalty, self.forward = supernet, penalty, forward

    def weights(self, training: Any) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The loss of a weight step, detached, and its gradients; None of weights that have no part in it."""
        with self.forward():
            loss = self.supernet.loss(training)
        weights = self.supernet.weights()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return loss.detach(), [_laid_as(w, g) for w, g in zip(weights, gradients, strict=True)]

    def alphas(self, held_out: Any) -> Sequence[Tensor]:
        """Without a backward through what lies before the searched cells."""
        with self.forward():
            loss = self.supernet.architecture_loss(held_out)
        return torch.autograd.grad(loss + self.penalty(), self.supernet.architecture())

    def both(self, held_out: Any) -> Sequence[Tensor | None]:
        """In alphas, then weights."""
        with self.forward():
            loss = self.supernet.loss(held_out)
        parameters = [*self.supernet.architecture(), *self.supernet.weights()]
        return torch.autograd.grad(loss + self.penalty(), parameters, allow_unused=True)

    def exact_alphas(self, training: Any) -> Sequence[Tensor]:
        """Of the weights' own loss, in float32: bfloat16 would round away what a finite difference is made of."""
        return torch.autograd.grad(self.supernet.architecture_loss(training), self.supernet.architecture())


class Bilevel:
    """Gradients of a supernet's losses in its weights and in its alphas.

    What each derives from a batch is recorded on a GPU, where that is asked for: a supernet's step is made of small
    operations. Results are valid until the next call.

    Args:
        penalty: added to the loss of the alphas; of tensors that change in place.
        forward: context of the forwards, such as a training policy's, but for those of a finite difference.
        records: as CUDA graphs.
    """

    def __init__(
        self,
        supernet: Supernet,
        penalty: Penalty,
        forward: Callable[[], AbstractContextManager[Any]] = nullcontext,
        *,
        records: bool = False,
    ) -> None:
        state = state_of(supernet) if records else None

        def recorded(function: Callable[..., T], *, shared: bool = True) -> Callable[..., T]:
            return function if state is None else Recorded(function, "a step of the search", state, shared=shared)

        losses = _Losses(supernet, penalty, forward)
        self.supernet = supernet
        self.weights = recorded(losses.weights)
        self._first_order = recorded(losses.alphas)
        self._both = recorded(losses.both)
        self._exact_alphas = recorded(losses.exact_alphas, shared=False)  # both sides of the difference

    def first_order(self, held_out: Any) -> Sequence[Tensor]:
        """Gradient in the alphas at the present weights."""
        return self._first_order(held_out)

    def second_order(self, held_out: Any, training: Any, rate: float) -> list[Tensor]:
        """Gradient in the alphas after one virtual step; the Hessian-vector product by finite difference.

        With w' = w - rate grad_w L_train(w): grad_a L_val(w') - rate (grad_a L_train(w + e v) - grad_a L_train(w - e
        v)) / 2e, where v = grad_w' L_val(w') and e = .01 / |v| (equations 7 and 8). All three L_train see the same
        buffers and random numbers, as they are one function of w and a. Weights, buffers (batch statistics, queues) and
        the random generator are left as they were, so that the step that follows sees none of this.

        Args:
            held_out, training: one batch of each half of the training set.
            rate: the weight optimiser's present learning rate, the paper's xi.
        """
        weights, alphas = self.supernet.weights(), self.supernet.architecture()
        with _undone(self.supernet):
            step = [_or_zero(w, g) for w, g in zip(weights, self.weights(training)[1], strict=True)]
            with _moved(weights, step, -rate):
                found = self._both(held_out)
        direct = [_or_zero(a, g) for a, g in zip(alphas, found, strict=False)]
        direction = [_or_zero(w, g) for w, g in zip(weights, found[len(alphas) :], strict=True)]
        size = 0.01 / torch.nn.utils.get_total_norm(direction).clamp(min=1e-12)
        curvature = self._difference(training, direction, size)
        return [d - rate * c for d, c in zip(direct, curvature, strict=True)]

    def _difference(self, training: Any, direction: list[Tensor], size: Tensor) -> list[Tensor]:
        step = list(torch._foreach_mul(direction, size))  # the size stays on the device: nobody waits for it
        sides = []
        for sign in (1, -1):
            with _moved(self.supernet.weights(), step, sign), _undone(self.supernet):
                sides.append(self._exact_alphas(training))
        return [(up - down) / (2 * size) for up, down in zip(*sides, strict=True)]


def held_by(supernet: Supernet) -> torch.device:
    """The device that the supernet is on."""
    return supernet.architecture()[0].device


def _laid_as(weight: Tensor, gradient: Tensor | None) -> Tensor | None:
    """The gradient in the weight's memory order, by which fused optimisers walk both; backward() would see to it."""
    if gradient is None or gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)


def _or_zero(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


@contextmanager
def _undone(supernet: Supernet) -> Iterator[None]:
    """What forwards do to buffers and to the random generator is undone."""
    with buffers_kept(supernet), random_states_kept(held_by(supernet)):
        yield


@contextmanager
def _moved(weights: list[nn.Parameter], direction: list[Tensor], distance: float) -> Iterator[None]:
    """The weights at w + distance * direction, put back bit for bit afterwards."""
    moving: list[Tensor] = [w.detach() for w in weights]
    kept = [w.clone() for w in moving]
    with torch.no_grad():
        torch._foreach_add_(moving, direction, alpha=distance)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moving, kept)
