"""The state of a model and its inputs, recorded so that it can be put back: nothing of the caller's changes.

A checkpoint holds whatever can be reached from its roots and may change: tensors (values, shapes, gradients, flags),
attributes, lists, mappings, sets, queues, arrays, random generators, and the variables that functions close over.
"""

from __future__ import annotations

import functools
import io
import itertools
import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from naslab.efficiency.clocks import Prepare, nothing
from naslab.efficiency.inputs import tensors_in, tensors_of
from naslab.efficiency.shared_state import functions_of, globals_of, kept_by, own_classes, rebind, rebind_class
from naslab.efficiency.surroundings import undisturbed
from naslab.efficiency.tensors import is_sparse, parts_of, slots_of
from naslab.errors import InputError


class Checkpoint:
    """What can be reached from `roots`, as it is now. Tensors on a GPU are kept on the host.

    Raises:
        InputError: something is held whose state cannot be put back, such as a generator that is under way.
    """

    def __init__(self, **roots: Any) -> None:
        self._records: list[Record] = list(_recorded(roots))

    def changed(self) -> list[Record]:
        """What is different now."""
        return [record for record in self._records if record.changed()]

    def restore(self) -> list[Record]:
        """Put everything back; what had changed."""
        return restore(self._records)


def state_keeper(call: Callable[[], Any], checkpoint: Checkpoint, **roots: Any) -> Prepare:
    """What has to be done ahead of each call so that every call finds the same state.

    Nothing, where calls change nothing, or only the first does, which then filled a cache that later ones find.

    Args:
        call: made twice; the checkpoint's owner puts everything back afterwards.
        checkpoint: of `roots`, as the calls are to find them.
    """
    call()
    first = checkpoint.changed()
    if not first:
        return nothing
    after_one = Checkpoint(**roots)
    call()
    if not after_one.changed():
        return nothing
    changing = {id(record): record for record in (*first, *checkpoint.changed())}
    return lambda: restore(changing.values())


@contextmanager
def preserved(**roots: Any) -> Iterator[Checkpoint]:
    """Whatever runs inside, the roots and what surrounds them (`undisturbed`) are afterwards as before.

    Raises:
        InputError: as for `Checkpoint`.
    """
    checkpoint = Checkpoint(**roots)
    with undisturbed(*_devices_of(roots)):
        try:
            yield checkpoint
        finally:
            checkpoint.restore()


def _devices_of(roots: Mapping[str, Any]) -> Iterator[torch.device]:
    for root in roots.values():
        tensors = tensors_of(root) if isinstance(root, nn.Module) else tensors_in(root)
        yield from {tensor.device for tensor in tensors}


def restore(records: Iterable[Record]) -> list[Record]:
    """Put the records back that changed, and return them."""
    changed = [record for record in records if record.changed()]
    for record in changed:
        record.restore()
    return changed


class Record(Protocol):
    """One thing as it was. `where` tells a reader how it is reached."""

    where: str

    def changed(self) -> bool:
        """Whether it is different now."""

    def restore(self) -> None:
        """Make it what it was."""


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


ATOMS = (
    *(int, float, complex, str, bytes, bool, type(None), type, types.ModuleType, types.CodeType, Enum, np.generic),
    *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, io.IOBase, range, slice),
)
MACHINERY = (
    "torch._dynamo",
    "torch._inductor",
    "torch._functorch",
    "torch.fx.graph",
    "torch.fx.node",
    "logging",
    "threading",
)
"""Modules whose objects are no state of a model's: compilers' caches, loggers, threads."""
PASSING = (types.GeneratorType, types.CoroutineType, itertools.count, itertools.cycle, enumerate, zip, map, filter)
"""Things that go on when they are used and cannot be turned back."""


def _recorded(roots: dict[str, Any]) -> Iterator[Record]:
    seen: dict[int, Any] = {}
    storages: set[int] = set()
    waiting = list(roots.items())
    while waiting:
        where, thing = waiting.pop()
        if isinstance(thing, ATOMS) or id(thing) in seen or _is_machinery(thing):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, PASSING):
            kind = type(thing).__name__
            raise InputError(f"{where}: a {kind} cannot be put back to where it is; profile the model without it")
        if isinstance(thing, Tensor):
            yield from _tensor_records(where, thing, storages)
        else:
            yield from _records(where, thing)
        waiting.extend(_reached(where, thing))


def _is_machinery(thing: Any) -> bool:
    of = thing if isinstance(thing, types.FunctionType) else type(thing)
    return str(of.__module__).startswith(MACHINERY)


def _tensor_records(where: str, tensor: Tensor, storages: set[int]) -> Iterator[Record]:
    yield _Look(where, tensor)
    if tensor.is_meta or tensor.layout is not torch.strided or not _has_storage(tensor):
        return
    storage = tensor.untyped_storage()
    if storage._cdata not in storages and storage.device.type != "meta":
        storages.add(storage._cdata)
        yield _Storage(where, storage)


def _records(where: str, thing: Any) -> Iterator[Record]:
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
        yield _Contents(where, lambda: _held(thing), lambda v: setattr(thing, "cell_contents", v[0]))
    elif isinstance(thing, types.FunctionType) and (names := globals_of(thing)):
        variables = thing.__globals__
        yield _Contents(where, lambda: [variables[n] for n in names], functools.partial(rebind, variables, names))
    for kind in own_classes(thing):
        read = functools.partial(_flat_class, kind)
        yield _Contents(f"class {kind.__name__}", read, functools.partial(_reclass, kind))
    if (attributes := _attributes(thing)) is not None:
        yield _Contents(where, lambda: _flat(attributes.items()), lambda flat: _refill(dict, attributes, flat))
    if slots := _slots(thing):
        yield _Contents(where, lambda: [getattr(thing, s, _ABSENT) for s in slots], lambda v: _reset(thing, slots, v))


def _reached(where: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """What a thing leads to, with the way there."""
    if isinstance(thing, Tensor):
        yield f"{where}.grad", thing.grad if thing.is_leaf else None
        yield f"{where}'s hooks", (thing._backward_hooks, thing._post_accumulate_grad_hooks)
        if is_sparse(thing):
            yield f"the parts of {where}", parts_of(thing)
        if thing.is_nested and thing.layout is torch.strided:
            yield f"{where}.values()", thing.values()
    elif isinstance(thing, np.random.Generator):
        yield f"{where}.bit_generator", thing.bit_generator
    elif isinstance(thing, dict):
        for key, value in dict.items(thing):
            yield f"{where}[{key!r}]", value
    elif isinstance(thing, (list, tuple, deque, set, frozenset)):
        yield from ((f"{where}[{index}]", value) for index, value in enumerate(thing))
    elif isinstance(thing, types.MethodType):
        yield from ((f"{where}.__self__", thing.__self__), (f"{where}.__func__", thing.__func__))
    elif isinstance(thing, types.BuiltinMethodType):
        yield f"{where}.__self__", thing.__self__
    elif isinstance(thing, types.FunctionType):
        names = thing.__code__.co_freevars
        yield from ((f"{where}, {name}", cell) for name, cell in zip(names, thing.__closure__ or (), strict=True))
        yield f"{where}.__defaults__", (thing.__defaults__, thing.__kwdefaults__)
        yield from ((f"{where}, {name}", thing.__globals__[name]) for name in globals_of(thing))
    elif isinstance(thing, types.CellType):
        yield from ((where, value) for value in _held(thing))
    elif isinstance(thing, functools.partial):
        yield where, (thing.func, thing.args, thing.keywords)
    if isinstance(thing, nn.Module) and not isinstance(thing, torch.jit.ScriptModule):
        yield f"{where}.forward", type(thing).forward
    for kind in own_classes(thing):
        yield f"class {kind.__name__}", [*kept_by(kind).values(), *functions_of(kind)]
    for name, value in (_attributes(thing) or {}).items():
        yield f"{where}.{name}", value
    for name in _slots(thing):
        yield f"{where}.{name}", getattr(thing, name, None)


_ABSENT = object()


def _attributes(thing: Any) -> dict[str, Any] | None:
    found = getattr(thing, "__dict__", None)
    return found if isinstance(found, dict) else None


def _slots(thing: Any) -> tuple[str, ...]:
    if isinstance(thing, Tensor):
        return ()
    return slots_of(thing)


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


def _held(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not bound yet
        return []


def _fill(array: Any, saved: bytes) -> None:
    array[...] = np.frombuffer(saved, array.dtype).reshape(array.shape)


def _same_text(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)
