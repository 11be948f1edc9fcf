"""The mode that observes operations at torch's dispatcher and records the work of each."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from naslab.efficiency.flop_count import FlopCount, Operation, Phase
from naslab.efficiency.formulas import FORMULAS
from naslab.efficiency.higher_order import run_watched
from naslab.efficiency.inputs import tensors_of
from naslab.efficiency.kinds import EINSUM, kind_of
from naslab.efficiency.schemas import bound, is_higher_order, is_mutable, is_view, operation_name
from naslab.efficiency.tensors import is_abstract, is_plain, tensors_within
from naslab.efficiency.threads import Context
from naslab.efficiency.traffic import bytes_moved
from naslab.efficiency.weights import WeightTensors
from naslab.efficiency.work import Call, Work
from naslab.errors import InputError

COMPLEX_CONVOLUTION = "complex convolution"


class _Origin(NamedTuple):
    """Where an operation comes from: its modules, the region of Python it is part of, and how often it counts."""

    modules: tuple[str, ...] = ()
    region: str | None = None
    times: int = 1


class _Place(threading.local):
    """Where a thread is: the modules that it is in with the names of all around them, and the region of Python."""

    def __init__(self) -> None:
        self.stack: list[tuple[nn.Module | None, tuple[str, ...]]] = [(None, ())]
        self.region: str | None = None
        self.parts = 0


class Counter(TorchDispatchMode):
    """Notes each operation that runs while it is on, by phase, module and region."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase: Phase = "forward"
        self._here = _Place()
        self._origins: dict[int, _Origin] = {}
        self._weights = WeightTensors(model)
        held = [] if model is None else list(tensors_of(model))
        self._abstract = not held or any(map(is_abstract, held))
        """Whether shapes alone are counted; where not, what runs on shapes alone, such as a trace, is no work."""
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._operations: list[Operation] = []
        self.severed: set[str] = set()
        """Control flow whose results have no gradient here, although what it was given may be trained."""
        self._thread = threading.get_ident()
        self.unseen: str | None = None
        """A module that ran in a thread in which nothing is watched."""

    def enter(self, module: nn.Module, name: str | None) -> None:
        """What follows runs for this module."""
        if threading.get_ident() != self._thread and _get_current_dispatch_mode() is None:
            self.unseen = name or type(module).__name__
        outer = self._here.stack[-1][1]
        self._here.stack.append((module, outer if name is None or name in outer else (*outer, name)))

    def leave(self, outputs: Any) -> None:
        """The module entered last is done."""
        _, names = self._here.stack.pop()
        result = next(iter(tensors_within(outputs)), None) if names and names[-1] not in self._shapes else None
        if result is not None and is_plain(result):
            self._shapes[names[-1]] = tuple(result.shape)

    def inside(self, module: nn.Module) -> bool:
        """Whether this module is the one entered last."""
        return self._here.stack[-1][0] is module

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """The operations inside are what torch makes of one call of its Python functions."""
        outer, self._here.region, self._here.parts = self._here.region, name, 0
        try:
            yield
        finally:
            self._here.region = outer

    def handed_over(self) -> Context:
        """Makes what another thread runs count, for the module that hands it over here."""
        modules = self._here.stack[-1][1]

        @contextmanager
        def watched() -> Iterator[None]:
            self._here.stack = [(None, modules)]
            with self:
                yield

        return watched

    def result(self) -> FlopCount:
        """Everything noted so far.

        Raises:
            InputError: part of it cannot be seen.
        """
        if self.unseen is not None:
            raise InputError(f"model: {self.unseen} runs in a thread of its own, where its operations are not seen")
        return FlopCount(tuple(self._operations), dict(self._shapes))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(not _is_basic(kind) for kind in types):
            return NotImplemented  # a subclass takes itself apart, and its parts are seen
        name = operation_name(func)
        if any(tensor.is_nested for tensor in tensors_within((args, kwargs))) and f"nested {name}" in FORMULAS:
            name = f"nested {name}"  # a kernel of its own, which torch's decomposition does not know
        if is_higher_order(func) and name not in FORMULAS:
            return self._with_bodies(name, func, args, kwargs)
        if name not in FORMULAS and hasattr(func, "decompose") and func.namespace != "prim":  # asks, computes nothing
            with self:  # composite operations reach a mode whole under inference_mode: take them apart
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        phase, origin = self._locate(name)
        outputs = func(*args, **kwargs)
        if name.startswith(("profiler::", "prim::")):
            return outputs
        call = Call(bound(func, args, kwargs), tuple(tensors_within(outputs)))
        self._weights.follow(args, kwargs, call.outputs)
        if not is_view(func) and (self._abstract or not any(map(is_abstract, call.outputs))):
            self._record(name, phase, origin, call, is_mutable(func))
        return outputs

    def _with_bodies(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Its bodies are counted as they run. Where nothing of them can run, as on meta, it is named."""
        before = len(self._operations)
        outputs = run_watched(self, func, args, kwargs)
        if torch.is_grad_enabled() and not any(tensor.requires_grad for tensor in tensors_within(outputs)):
            self.severed.add(name.removeprefix("higher_order::"))
        if len(self._operations) == before:
            phase, origin = self._locate(name)
            self._record(name, phase, origin, Call({"arguments": args}, tuple(tensors_within(outputs))), False)
        return outputs

    def _locate(self, name: str) -> tuple[Phase, _Origin]:
        """Phase and origin.

        Autograd numbers its nodes as the forward makes them, just before the operation itself runs; the node whose
        gradient is being taken so leads back to the forward's operation.
        """
        modules = self._here.stack[-1][1]
        node = torch._C._current_autograd_node()
        if node is None:
            origin = _Origin(modules, self._here.region, self._times(name))
            self._origins.setdefault(torch.autograd._get_sequence_nr() - 1, origin)
            return self.phase, origin
        if modules:  # checkpointing runs a module's forward again
            return "backward", _Origin(modules, self._here.region, self._times(name))
        return "backward", self._origins.get(node._sequence_nr(), _Origin())

    def _times(self, name: str) -> int:
        """torch makes three real convolutions of a complex one, which is four real products; the third counts twice."""
        if self._here.region != COMPLEX_CONVOLUTION or "convolution" not in name:
            return 1
        self._here.parts += 1
        return 2 if self._here.parts == 3 else 1

    def _record(self, name: str, phase: Phase, origin: _Origin, call: Call, mutable: bool) -> None:
        formula = FORMULAS.get(name)
        work = Work() if formula is None else formula(call)
        if work.contraction and call.outputs[0].is_complex():  # a complex multiply-add is four real ones
            work = replace(work, contraction=4 * work.contraction, masked=4 * work.masked)
        if work.contraction and origin.times > 1:
            work = replace(work, contraction=origin.times * work.contraction)
        if work.contraction and phase == "forward" and not work.masked:
            work = replace(work, masked=self._weights.in_vain(call, work.contraction))
        covered = formula is not None or _is_without_floats(name, call)
        self._operations.append(
            Operation(
                name=name,
                kind=EINSUM if origin.region == EINSUM and work.contraction else kind_of(name, call, covered),
                phase=phase,
                modules=origin.modules,
                dtype=next((t.dtype for t in call.outputs if t.is_floating_point()), torch.get_default_dtype()),
                work=work,
                bytes_moved=bytes_moved(name, call, mutable),
                elements=max(sum(t.numel() for t in call.outputs), 1),
                covered=covered,
                most=0 if covered else _largest_product(call),
            )
        )


def _is_basic(kind: type) -> bool:
    return kind in (Tensor, nn.Parameter, nn.Buffer) or kind.__module__.startswith("torch._subclasses")


def _is_without_floats(name: str, call: Call) -> bool:
    """Whether one of torch's own operations has no floating-point number to compute with."""
    tensors = [*tensors_within(call.arguments), *call.outputs]
    return "::" not in name and not any(t.is_floating_point() or t.is_complex() or t.is_quantized for t in tensors)


def _largest_product(call: Call) -> int:
    """FLOPs of the largest dense product that the tensors of a call could be the operands and the result of."""
    elements: int = sum(
        t.numel() for t in {id(t): t for t in (*tensors_within(call.arguments), *call.outputs)}.values()
    )
    return round(2 * math.sqrt(elements / 3) ** 3)
