"""Records of an object's state, which detect a change and restore it."""

from __future__ import annotations

import functools
import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from naslab.efficiency.clocks import nothing
from naslab.efficiency.shared_state import globals_of, kept_by, own_classes, rebind, rebind_class
from naslab.efficiency.tensors import slots_of


class Record(Protocol):
    """One thing as it was. `where` tells a reader how it is reached."""

    where: str

    def changed(self) -> bool:
        """Whether it is different now."""

    def restore(self) -> None:
        """Make it what it was."""


def tensor_records(where: str, tensor: Tensor, storages: set[int]) -> Iterator[Record]:
    """Of a tensor, and of the storage under it unless that is among `storages`, to which it is added."""
    yield _Look(where, tensor)
    if tensor.is_meta or tensor.layout is not torch.strided or not _has_storage(tensor):
        return
    storage = tensor.untyped_storage()
    if storage._cdata not in storages and storage.device.type != "meta":
        storages.add(storage._cdata)
        yield _Storage(where, storage)


def records_of(where: str, thing: Any) -> Iterator[Record]:
    """Of anything else: of what it holds, of its attributes and slots, and of those of its classes that are its own."""
    if isinstance(thing, dict):
        base = OrderedDict if isinstance(thing, OrderedDict) else dict
        yield _Contents(where, lambda: _flat(base.items(thing)), lambda flat: _refill(base, thing, flat))
    elif isinstance(thing, list):
        yield _Contents(where, lambda: list(list.__iter__(thing)), lambda v: list.__setitem__(thing, slice(None), v))
    elif isinstance(thing, deque):
        yield _Contents(where, lambda: list(thing), lambda v: _again(thing.clear, thing.extend, v))
    elif isinstance(thing, set):
        yield _Value(where, lambda: set(thing), lambda v: _again(thing.clear, thing.update, v), set.__eq__)
    elif isinstance(thing, bytearray):
        yield _Value(where, lambda: bytes(thing), lambda v: thing.__setitem__(slice(None), v), bytes.__eq__)
    elif isinstance(thing, np.ndarray):
        if thing.flags.writeable and thing.dtype != object:
            yield _Value(where, thing.tobytes, lambda v: _fill(thing, v), bytes.__eq__)
    elif isinstance(thing, torch.Generator):
        yield _Value(where, thing.get_state, lambda v: _again(nothing, thing.set_state, v), torch.equal)
    elif isinstance(thing, random.Random):
        yield _Value(where, thing.getstate, thing.setstate, tuple.__eq__)
    elif isinstance(thing, np.random.RandomState):
        yield _Value(where, lambda: thing.get_state(legacy=False), thing.set_state, _same_text)
    elif isinstance(thing, np.random.BitGenerator):
        yield _Value(where, lambda: thing.state, lambda v: setattr(thing, "state", v), _same_text)
    elif isinstance(thing, types.CellType):
        yield _Contents(where, lambda: held_in(thing), lambda v: setattr(thing, "cell_contents", v[0]))
    elif isinstance(thing, types.FunctionType) and (names := globals_of(thing)):
        variables = thing.__globals__
        yield _Contents(where, lambda: [variables[n] for n in names], functools.partial(rebind, variables, names))
    for kind in own_classes(thing):
        read = functools.partial(_flat_class, kind)
        yield _Contents(f"class {kind.__name__}", read, functools.partial(_reclass, kind))
    if (attributes := attributes_of(thing)) is not None:
        yield _Contents(where, lambda: _flat(attributes.items()), lambda flat: _refill(dict, attributes, flat))
    if slots := own_slots_of(thing):
        yield _Contents(where, lambda: [getattr(thing, s, _ABSENT) for s in slots], lambda v: _reset(thing, slots, v))


def attributes_of(thing: Any) -> dict[str, Any] | None:
    """Its `__dict__`, if it has one."""
    found = getattr(thing, "__dict__", None)
    return found if isinstance(found, dict) else None


def own_slots_of(thing: Any) -> tuple[str, ...]:
    """Names of its classes' slots; a tensor's are torch's own."""
    if isinstance(thing, Tensor):
        return ()
    return slots_of(thing)


def held_in(cell: types.CellType) -> list[Any]:
    """What a variable that a function closes over holds: one thing, or nothing yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


@dataclass
class _Contents:
    """A container by what it holds, compared by identity: what the things in it hold has records of its own."""

    where: str
    read: Callable[[], list[Any]]
    write: Callable[[list[Any]], None]
    saved: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.saved = self.read()

    def changed(self) -> bool:
        now = self.read()
        return len(now) != len(self.saved) or any(a is not b for a, b in zip(now, self.saved, strict=True))

    def restore(self) -> None:
        self.write(self.saved)


@dataclass
class _Value:
    """Something whose state is one comparable value: an array, a random generator."""

    where: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    same: Callable[[Any, Any], bool]
    saved: Any = field(init=False)

    def __post_init__(self) -> None:
        self.saved = self.read()

    def changed(self) -> bool:
        return not self.same(self.read(), self.saved)

    def restore(self) -> None:
        self.write(self.saved)


class _Storage:
    """The bytes under one or more tensors."""

    def __init__(self, where: str, storage: torch.UntypedStorage) -> None:
        self.where, self._storage = where, storage
        self._saved = _bytes(storage).to("cpu", copy=True)

    def changed(self) -> bool:
        now = _bytes(self._storage)
        return now.numel() != self._saved.numel() or not torch.equal(now.cpu(), self._saved)

    def restore(self) -> None:
        if self._storage.nbytes() != self._saved.numel():
            self._storage.resize_(self._saved.numel())
        _bytes(self._storage).copy_(self._saved)


class _Look:
    """What a tensor shows of which storage, whether it wants a gradient, and the gradient it has."""

    def __init__(self, where: str, tensor: Tensor) -> None:
        self.where, self._tensor = where, tensor
        self._alias = tensor.detach()
        self._wants, self._leaf = tensor.requires_grad, tensor.is_leaf
        self._gradient = tensor.grad if tensor.is_leaf else None

    def changed(self) -> bool:
        tensor = self._tensor
        moved = _view(tensor) != _view(self._alias)
        wants = self._leaf and tensor.is_leaf and tensor.requires_grad != self._wants
        return moved or wants or (self._leaf and tensor.is_leaf and tensor.grad is not self._gradient)

    def restore(self) -> None:
        tensor = self._tensor
        if _view(tensor) != _view(self._alias):
            tensor.data = self._alias
        if self._leaf and tensor.is_leaf:
            tensor.requires_grad_(self._wants)
            tensor.grad = self._gradient


def _view(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.layout is not torch.strided or tensor.is_nested or not _has_storage(tensor):
        return (tensor.dtype, tensor.device, None if tensor.is_nested else tuple(tensor.shape))
    place = tensor.untyped_storage()._cdata
    return (tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), place)


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    with torch.no_grad():
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _has_storage(tensor: Tensor) -> bool:
    """Whether there is memory behind a tensor: a subclass that wraps others has a storage of no bytes to read."""
    try:
        storage = tensor.untyped_storage()
        return storage.device.type == "meta" or not storage.nbytes() or storage.data_ptr() != 0
    except (RuntimeError, NotImplementedError):
        return False


_ABSENT = object()


def _reset(thing: Any, slots: Iterable[str], values: Iterable[Any]) -> None:
    for name, value in zip(slots, values, strict=True):
        if value is not _ABSENT:
            object.__setattr__(thing, name, value)
        elif hasattr(thing, name):
            object.__delattr__(thing, name)


def _flat(items: Iterable[tuple[Any, Any]]) -> list[Any]:
    return [part for item in items for part in item]


def _refill(base: Any, mapping: Any, flat: list[Any]) -> None:
    base.clear(mapping)
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        base.__setitem__(mapping, key, value)


def _flat_class(kind: type) -> list[Any]:
    return _flat(kept_by(kind).items())


def _reclass(kind: type, flat: list[Any]) -> None:
    rebind_class(kind, dict(zip(flat[::2], flat[1::2], strict=True)))


def _again(clear: Callable[[], None], fill: Callable[[Any], object], contents: Any) -> None:
    clear()
    fill(contents)


def _fill(array: Any, saved: bytes) -> None:
    array[...] = np.frombuffer(saved, array.dtype).reshape(array.shape)


def _same_text(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)
