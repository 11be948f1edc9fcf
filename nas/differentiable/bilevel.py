"""The gradient of the validation loss in the architecture parameters (DARTS, Liu et al. 2019, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from naslab.efficiency.surroundings import random_states_kept
from naslab.search_spaces import Supernet

Penalty = Callable[[], Tensor]


def first_order(
    supernet: Supernet,
    held_out: Any,
    penalty: Penalty,
    forward: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Tensor]:
    """Gradient at the present weights: no backward through what lies before the searched cells.

    Args:
        forward: context of the forward, such as a training policy's.
    """
    with forward():
        loss = supernet.architecture_loss(held_out)
    loss = loss + penalty()
    return list(torch.autograd.grad(loss, supernet.architecture()))


def second_order(supernet: Supernet, held_out: Any, training: Any, rate: float, penalty: Penalty) -> list[Tensor]:
    """Gradient at the weights after one virtual step, with the Hessian-vector product by finite difference.

    With w' = w - rate grad_w L_train(w): grad_a L_val(w') - rate (grad_a L_train(w + e v) - grad_a L_train(w - e v))
    / 2e, where v = grad_w' L_val(w') and e = .01 / |v| (equations 7 and 8). Weights, buffers (batch statistics,
    queues) and the random generator are left as they were, so that the step that follows sees none of this. All of it
    is float32 whatever the policy: the difference is smaller than what bfloat16 rounds away.

    Args:
        held_out, training: one batch of each half of the training set.
        rate: the weight optimiser's present learning rate, the paper's xi.
    """
    weights, alphas = supernet.weights(), supernet.architecture()
    with _untouched(supernet):
        ahead = torch.autograd.grad(supernet.loss(training), weights, allow_unused=True)
        step = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, ahead, strict=True)]
        with _moved(weights, step, -rate):
            loss = supernet.loss(held_out) + penalty()
            found = torch.autograd.grad(loss, [*alphas, *weights], allow_unused=True)
        direct = [_or_zero(a, g) for a, g in zip(alphas, found, strict=False)]
        direction = [_or_zero(w, g) for w, g in zip(weights, found[len(alphas) :], strict=True)]
        size = 0.01 / torch.nn.utils.get_total_norm(direction).clamp(min=1e-12)
        curvature = _difference(supernet, training, direction, size)
    return [d - rate * c for d, c in zip(direct, curvature, strict=True)]


def _difference(supernet: Supernet, training: Any, direction: list[Tensor], size: Tensor) -> list[Tensor]:
    step = list(torch._foreach_mul(direction, size))  # the size stays on the device: nobody waits for it
    sides = []
    for sign in (1, -1):
        with _moved(supernet.weights(), step, sign), random_states_kept(held_by(supernet)):
            gradients = torch.autograd.grad(supernet.loss(training), supernet.architecture())
            sides.append(gradients)
    return [(up - down) / (2 * size) for up, down in zip(*sides, strict=True)]


def held_by(supernet: Supernet) -> torch.device:
    """The device that the supernet is on."""
    return supernet.architecture()[0].device


def _or_zero(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


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


@contextmanager
def _untouched(supernet: Supernet) -> Iterator[None]:
    """Buffers and random numbers as they were, whatever forwards ran inside."""
    buffers = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    try:
        with random_states_kept(held_by(supernet)):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in supernet.named_buffers():
                buffer.copy_(buffers[name])
