"""Tensors wherever they are: in outputs of any shape, and the storages under tensors of any layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

DEEPEST = 6


def tensors_within(thing: Any) -> Iterator[Tensor]:
    """Tensors in a structure, in order: containers that torch knows, and the attributes of other objects."""
    return _within(thing, set(), 0)


def _within(thing: Any, seen: set[int], depth: int) -> Iterator[Tensor]:
    for leaf in tree_leaves(thing):
        if isinstance(leaf, Tensor):
            yield leaf
        elif depth < DEEPEST and id(leaf) not in seen and hasattr(leaf, "__dict__") and not callable(leaf):
            seen.add(id(leaf))
            yield from _within(list(vars(leaf).values()), seen, depth + 1)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense and rectangular."""
    return tensor.layout is torch.strided and not tensor.is_nested


_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def is_sparse(tensor: Tensor) -> bool:
    """Whether only some elements of a tensor are stored."""
    return tensor.layout in _PARTS


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that hold a sparse or nested one; a dense one itself."""
    if is_sparse(tensor):
        return [getattr(tensor, name)() for name in _PARTS[tensor.layout]]
    if tensor.is_nested:
        values: Tensor = getattr(tensor, "_values") if tensor.layout is torch.jagged else tensor.values()  # noqa: B009
        return [values]
    return [tensor]


def stored_elements(tensor: Tensor) -> int:
    """Elements that a tensor stores: those of a sparse one's values, blocks whole."""
    return parts_of(tensor)[-1].numel()
