"""Training by several processes: each has its part of every batch, and all get the mean of their gradients.

DDP gives each process the whole model, FSDP2 a part of it (sharding.py). A process that is alone, outside of a process
group of `torch.distributed`, is the whole of it: nothing here changes anything then. Where the loss of a batch is the
mean of its samples' losses, and no layer looks at the batch, the mean, weighted by the parts' sizes, is exactly the
gradient of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_unflatten

from naslab.errors import InputError, NaslabError

Parallel = Literal["ddp", "fsdp2"]
P = ParamSpec("P")
T = TypeVar("T")

_chosen: list[Parallel] = ["ddp"]


class PeerLost(NaslabError):
    """Another process of the training is gone; this one can do nothing more."""


def world() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one; 0 speaks and writes for all."""
    return dist.get_rank() if world() > 1 else 0


def choose(parallel: Parallel) -> None:
    """How this process, and all that train with it, hold a model."""
    _chosen[:] = [parallel]


def parallel() -> Parallel | None:
    """How processes that train together hold a model; None where one trains alone."""
    return _chosen[0] if world() > 1 else None


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
    """This process's part of a batch, along its first dimension, and its size over that of an equal part.

    Raises:
        InputError: fewer samples than processes.
    """
    if world() == 1:
        return batch, 1.0
    leaves, structure = tree_flatten(batch)
    size = len(leaves[0])
    if size < world():
        raise InputError(f"executor.processes: {world()} processes, and a batch of {size}")
    own = [leaf.tensor_split(world())[rank()] for leaf in leaves]
    return tree_unflatten(own, structure), len(own[0]) * world() / size


def _is_of_communication(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(name in str(error).lower() for name in ("gloo", "nccl"))


def _told(function: Callable[P, T]) -> Callable[P, T]:
    """An error of communication means that another process has ended, whose own error says why."""

    @wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            if world() == 1 or not _is_of_communication(error):
                raise
            raise PeerLost(f"another process of the training is gone: {error}") from None

    return asked


class LossModule(nn.Module):
    """A model's loss of a batch as a module, which is what DDP and FSDP2 take.

    Args:
        loss: of the model and a batch: a scalar, or named scalars of which `loss` is the one to descend.
    """

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Named scalars; `loss` alone has a gradient, so that DDP awaits none of the others."""
        found = self._loss(self.model, batch)
        if not isinstance(found, Mapping):
            return {"loss": found}
        return {name: value if name == "loss" else value.detach() for name, value in found.items()}


def own_model(model: nn.Module, optimiser: Optimizer) -> tuple[nn.Module, Optimizer]:
    """What is to be trained in the place of both: a copy where it is to be dealt out."""
    return _sharding().apart(model, optimiser) if parallel() == "fsdp2" else (model, optimiser)


def joined(module: nn.Module, optimiser: Optimizer) -> nn.Module:
    """The module of an `own_model`, whose gradients are after each backward pass the mean of those in all processes.

    Some losses leave parameters out in some steps, which DDP has to find. Buffers are each process's own, as layers
    that look at the batch are refused.
    """
    if parallel() == "ddp":
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)
    if parallel() == "fsdp2":
        _sharding().shard(module, optimiser, world())
    return module


@contextmanager
def held_back(module: nn.Module, until_last: bool) -> Iterator[None]:
    """Of a joined module: gradients are summed up here, and only those of a step's last part go to the others."""
    if parallel() == "fsdp2":
        cast(Any, module).set_requires_gradient_sync(until_last)
    with module.no_sync() if isinstance(module, DistributedDataParallel) and not until_last else nullcontext():
        yield


def gathered(state: T) -> T:
    """The state of an `own_model`, or of its optimiser, whole again; all processes ask together."""
    return _sharding().whole(state) if parallel() == "fsdp2" else state


def _sharding() -> Any:
    """What FSDP2 needs, imported only where it is used: that takes as long as half of a worker's start."""
    from naslab.search_spaces.common.training import sharding

    return sharding


@_told
def backward(loss: Tensor) -> None:
    """Gradients of the loss, in all processes."""
    loss.backward()


@_told
def mean_values(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each over all processes, which have the same names."""
    if world() == 1 or not values:
        return values
    together = torch.stack([value.double() for value in values.values()])
    dist.all_reduce(together)
    return dict(zip(values, together / world(), strict=True))


@_told
def agree(go_on: bool) -> bool:
    """Whether process 0 goes on, told to all."""
    if world() == 1:
        return go_on
    word = torch.tensor([int(go_on)])
    dist.broadcast(word, 0)
    return bool(word.item())
