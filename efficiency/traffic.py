"""Bytes that an operation must move to and from memory: every argument read and result written once.

That is the least a kernel of its own can do, so time predicted from it is a bound; what a cache keeps between two
operations is not subtracted.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from torch import Tensor

from naslab.efficiency.formulas import TRAFFIC
from naslab.efficiency.tensors import is_plain, parts_of, tensors_within
from naslab.efficiency.work import Call

UNTOUCHED = frozenset(
    "empty empty_strided empty_like new_empty new_empty_strided resize resize_as set lift_fresh _unsafe_view "
    "as_strided transpose t squeeze unsqueeze detach is_same_size _nested_tensor_size".split()
)
"""Allocate or rename; touch no element."""

WRITTEN = frozenset(
    "fill zero zeros zeros_like ones ones_like full full_like new_zeros new_ones new_full arange linspace eye rand "
    "rand_like randn randn_like randint randint_like randperm uniform normal bernoulli exponential random".split()
)
"""Write their result without reading what was there."""

SELECTED = frozenset("embedding index index_select gather take take_along_dim masked_select".split())
"""Read only the elements that they return, beside the indices."""

SCATTERED = frozenset("index_put _index_put_impl _unsafe_index_put index_copy".split())
"""Write only the elements that they are given, beside the indices."""


def bytes_moved(name: str, call: Call, in_place: bool) -> int:
    """Bytes read and written by one call of the operation `name`."""
    if name in TRAFFIC:
        return TRAFFIC[name](call)
    if name in UNTOUCHED:
        return 0
    written = sum(map(tensor_bytes, call.outputs))
    if name in WRITTEN:
        return written
    if name in SELECTED:
        indices = [call.arguments.get(key) for key in ("indices", "index", "mask")]
        return 2 * written + _read(indices)
    if name in SCATTERED and in_place:
        values = _read([call.arguments.get("values"), call.arguments.get("source")])
        return 2 * values + _read([call.arguments.get("indices"), call.arguments.get("index")])
    if name == "copy":
        return written + _read([call.arguments["src"]])
    return written + _read(call.arguments.values())


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements of a tensor: a dimension that is expanded (stride 0) is there once."""
    if not is_plain(tensor):
        return sum(part.numel() * part.element_size() for part in parts_of(tensor))
    held = prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    return held * tensor.element_size()


def _read(arguments: Iterable[Any]) -> int:
    distinct = {id(tensor): tensor for tensor in tensors_within(list(arguments))}
    return sum(map(tensor_bytes, distinct.values()))
