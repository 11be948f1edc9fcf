"""Training by several processes together: each has its part of every batch, and all have the sum of the gradients.

A process that is alone, outside of a process group of `torch.distributed`, is the whole of it: nothing here changes
anything then. Where the loss of a batch is the mean of its samples' losses, and no layer looks at the batch, the sum
is exactly the gradient of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_unflatten

from naslab.errors import InputError, NaslabError

P = ParamSpec("P")
T = TypeVar("T")


class PeerLost(NaslabError):
    """Another process of the training is gone; this one can do nothing more."""


def world() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one; 0 speaks and writes for all."""
    return dist.get_rank() if world() > 1 else 0


def check_divisible(model: nn.Module) -> None:
    """Refuse a model that looks at the samples of a batch together, as its processes see parts.

    Raises:
        InputError: it has batch normalisation, and several processes train it.
    """
    if world() > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise InputError("executor.processes: batch normalisation would see parts of a batch; use 1 for this space")


def check_alone(why: str) -> None:
    """Refuse to train in several processes.

    Raises:
        InputError: with `why`.
    """
    if world() > 1:
        raise InputError(f"executor.processes: {why}; use 1 for this task")


def own_part(batch: Any) -> tuple[Any, float]:
    """This process's part of a batch, along its first dimension, and which share of the samples that is.

    Raises:
        InputError: fewer samples than processes.
    """
    if world() == 1:
        return batch, 1.0
    leaves, structure = tree_flatten(batch)
    size = len(leaves[0])
    if size < world():
        raise InputError(f"executor.processes: {world()} processes, and a batch of {size}")
    part = tree_unflatten([leaf.tensor_split(world())[rank()] for leaf in leaves], structure)
    return part, len(leaves[0].tensor_split(world())[rank()]) / size


def _told(function: Callable[P, T]) -> Callable[P, T]:
    """An error of communication means that another process has ended, whose own error says why."""

    @wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            raise PeerLost(f"another process of the training is gone: {error}") from None

    return asked


@_told
def sum_gradients(model: nn.Module) -> None:
    """Give every parameter the sum of its gradients over all processes; none where no process has one."""
    if world() == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    flat = torch.cat([has, *((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters)])
    dist.all_reduce(flat)
    some, *sums = flat.split([len(parameters), *(p.numel() for p in parameters)])
    for parameter, found, total in zip(parameters, some.tolist(), sums, strict=True):
        parameter.grad = total.view_as(parameter).to(parameter.dtype) if found else None


@_told
def sum_values(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sum of each over all processes, which have the same names."""
    if world() == 1 or not values:
        return values
    together = torch.stack([value.double() for value in values.values()])
    dist.all_reduce(together)
    return dict(zip(values, together, strict=True))


@_told
def agree(go_on: bool) -> bool:
    """Whether process 0 goes on, told to all."""
    if world() == 1:
        return go_on
    word = torch.tensor([int(go_on)])
    dist.broadcast(word, 0)
    return bool(word.item())
