"""Finds tensors in outputs of any structure, and the storages under tensors of any layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set, ValuesView
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

DEEPEST = 6
_ATOMS = frozenset({int, float, bool, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout})
"""What most arguments are that are no tensors: there is nothing to look for in them."""


def tensors_within(thing: Any) -> Iterator[Tensor]:
    """Tensors in a structure, in order: containers of any kind, and the attributes and slots of other objects."""
    return _within(thing, set(), 0)


def _within(thing: Any, seen: set[int], depth: int) -> Iterator[Tensor]:
    for leaf in tree_leaves(thing):
        if isinstance(leaf, Tensor):
            yield leaf
        elif (
            type(leaf) not in _ATOMS and depth < DEEPEST and id(leaf) not in seen and (parts := _parts_of_object(leaf))
        ):
            seen.add(id(leaf))
            yield from _within(parts, seen, depth + 1)


def _parts_of_object(thing: Any) -> list[Any]:
    """What an object that torch does not take apart holds."""
    if type(thing) in _ATOMS:
        return []
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, (Set, ValuesView)):
        return list(thing)
    if callable(thing):
        return []
    slots = [getattr(thing, name, None) for name in slots_of(thing)]
    return [*vars(thing).values(), *slots] if hasattr(thing, "__dict__") else slots


def slots_of(thing: Any) -> tuple[str, ...]:
    """Names of the slots of an object's classes."""
    named = [vars(kind).get("__slots__", ()) for kind in type(thing).__mro__]
    flat = [name for slots in named for name in ((slots,) if isinstance(slots, str) else slots)]
    return tuple(name for name in flat if not name.startswith("__"))


def is_abstract(tensor: Tensor) -> bool:
    """Whether a tensor has a shape and no values: on meta, or fake."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


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


def is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor is of a class whose numbers are in other tensors that it holds."""
    return is_traceable_wrapper_subclass(tensor) and not tensor.is_nested and not is_abstract(tensor)


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that hold a sparse or nested one, or one that wraps others (quantised weights); a dense one
    itself.
    """
    if is_wrapper(tensor):
        names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
        return [part for name in names for part in parts_of(getattr(tensor, name))]
    if is_sparse(tensor):
        return [getattr(tensor, name)() for name in _PARTS[tensor.layout]]
    if tensor.is_nested:
        values: Tensor = getattr(tensor, "_values") if tensor.layout is torch.jagged else tensor.values()  # noqa: B009
        return [values]
    return [tensor]


def stored_elements(tensor: Tensor) -> int:
    """Elements that a tensor stores: those of a sparse one's values, blocks whole."""
    return parts_of(tensor)[-1].numel()
