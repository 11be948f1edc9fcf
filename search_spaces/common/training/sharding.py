"""FSDP2: parameters, gradients and the optimiser's state dealt out over the processes, whole only while they are used.

What is dealt out is a copy. The model that a task holds stays an ordinary one: it gets the whole weights at each rung,
so that one process can evaluate, copy and save it alone. It costs one more set of weights in each process.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from naslab.search_spaces.common.training.recomputation import repeated_blocks

T = TypeVar("T")


def apart(model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A copy of both; the original optimiser's state, of which nothing more is needed, is let go."""
    copied: tuple[nn.Module, torch.optim.Optimizer] = copy.deepcopy((model, optimiser))
    optimiser.state.clear()
    return copied


def shard(module: nn.Module, optimiser: torch.optim.Optimizer, processes: int) -> None:
    """Deal out, in place: repeated blocks one by one, and what is left together."""
    before = list(module.parameters())
    for parameter in before:
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no other layout
    mesh = init_device_mesh(before[0].device.type, (processes,))
    for part in (*repeated_blocks(module), module):
        fully_shard(part, mesh=mesh)
    new: dict[Any, Any] = dict(zip(before, module.parameters(), strict=True))
    for group in optimiser.param_groups:
        group["params"] = [new[parameter] for parameter in group["params"]]
    kept = {new[old]: {name: _like(value, new[old]) for name, value in s.items()} for old, s in optimiser.state.items()}
    optimiser.state.clear()
    optimiser.state.update(kept)


def whole(state: T) -> T:
    """A state with nothing dealt out; all processes ask together."""
    found: T = tree_map(lambda value: value.full_tensor() if isinstance(value, DTensor) else value, state)
    return found


def _like(value: Any, parameter: nn.Parameter) -> Any:
    """What an optimiser keeps of a parameter, dealt out as that is; numbers such as a count of steps stay."""
    if not isinstance(value, Tensor) or not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
