"""The state of a model and its inputs, recorded so that it can be restored: nothing of the caller's changes.

A checkpoint holds whatever can be reached from its roots and may change: tensors (values, shapes, gradients, flags),
attributes, lists, mappings, sets, queues, arrays, random generators, and the variables that functions close over.
"""

from __future__ import annotations

import functools
import io
import itertools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naslab.efficiency.clocks import Prepare, nothing
from naslab.efficiency.inputs import tensors_in, tensors_of
from naslab.efficiency.records import Record, attributes_of, held_in, own_slots_of, records_of, tensor_records
from naslab.efficiency.shared_state import functions_of, globals_of, kept_by, own_classes
from naslab.efficiency.surroundings import undisturbed
from naslab.efficiency.tensors import is_sparse, parts_of
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
            yield from tensor_records(where, thing, storages)
        else:
            yield from records_of(where, thing)
        waiting.extend(_reached(where, thing))


def _is_machinery(thing: Any) -> bool:
    of = thing if isinstance(thing, types.FunctionType) else type(thing)
    return str(of.__module__).startswith(MACHINERY)


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
        yield from ((where, value) for value in held_in(thing))
    elif isinstance(thing, functools.partial):
        yield where, (thing.func, thing.args, thing.keywords)
    if isinstance(thing, nn.Module) and not isinstance(thing, torch.jit.ScriptModule):
        yield f"{where}.forward", type(thing).forward
    for kind in own_classes(thing):
        yield f"class {kind.__name__}", [*kept_by(kind).values(), *functions_of(kind)]
    for name, value in (attributes_of(thing) or {}).items():
        yield f"{where}.{name}", value
    for name in own_slots_of(thing):
        yield f"{where}.{name}", getattr(thing, name, None)
