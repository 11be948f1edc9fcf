"""Model inputs: one tensor, several, or tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from naslab.errors import InputError

Inputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]


def call_model(model: Callable[..., Any], inputs: Inputs) -> Any:
    """The model's output for `inputs`: a tuple is spread over positions, a mapping over keywords. What a model yields
    is collected, as a generator that nobody asks has done no work. Under autocast the weights are cast anew, as in a
    training step of its own.
    """
    torch.clear_autocast_cache()
    if isinstance(inputs, Mapping):
        outputs = model(**inputs)
    else:
        outputs = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return list(outputs) if isinstance(outputs, Generator) else outputs


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """`inputs` with every tensor in them replaced by `function` of it."""
    mapped: Inputs = torch.utils._pytree.tree_map_only(Tensor, function, inputs)
    return mapped


def tensors_in(inputs: Inputs) -> list[Tensor]:
    """Every tensor in `inputs`, in order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def batch_size(inputs: Inputs, dim: int = 0) -> int:
    """Samples in a batch: the size of dimension `dim` of the first tensor; 1 where there is none.

    Raises:
        InputError: the first tensor has no such dimension.
    """
    first = next((t for t in tensors_in(inputs) if t.ndim), None)
    if first is None:
        return 1
    if not -first.ndim <= dim < first.ndim:
        raise InputError(f"batch dimension {dim}: the first input has {first.ndim} dimensions")
    return first.size(dim)


def with_batch_size(inputs: Inputs, size: int, dim: int = 0) -> Inputs:
    """`inputs` with `size` samples: those there are, in order and again from the first. Every tensor whose dimension
    `dim` has the batch's size is taken to hold its samples there.
    """
    given = batch_size(inputs, dim)

    def resized(tensor: Tensor) -> Tensor:
        if not -tensor.ndim <= dim < tensor.ndim or tensor.shape[dim] != given:
            return tensor
        return tensor.index_select(dim, torch.arange(size, device=tensor.device) % given)

    return map_tensors(resized, inputs)


def tensors_of(model: nn.Module) -> Iterable[Tensor]:
    """Parameters and buffers of a model."""
    yield from model.parameters()
    yield from model.buffers()


def device_of(model: nn.Module, inputs: Inputs) -> torch.device:
    """Device of the model's first parameter or buffer; of the input where it has none; else the CPU."""
    first = next(iter(tensors_of(model)), None)
    if first is None:
        first = next(iter(tensors_in(inputs)), None)
    return torch.device("cpu") if first is None else first.device
