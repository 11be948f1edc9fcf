"""Counting FLOPs by watching the operations that really run, forward and backward, on any device or on meta.

Unlike counters that know a few operations and give the rest 0, this one says which share it knew.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from efficiency.formulas import FORMULAS, Call, Work
from efficiency.inputs import Inputs, call_model, tensors_of


@dataclass(frozen=True)
class FlopCount:
    """What a run executed, for the whole batch; a multiply-add is 2.

    `coverage` is the share, by output elements, of the executed operations that had a formula (views alias, so
    they have no elements of their own); `uncovered` names the others. `by_module` holds the forward only, each
    module with its children, by the names of `named_modules`; "" is the model.
    """

    work: Work
    by_operation: Mapping[str, Work]
    by_module: Mapping[str, Work]
    coverage: float
    uncovered: tuple[str, ...]

    @property
    def total(self) -> int:
        """FLOPs of all contractions, the figure that the literature calls FLOPs; `work.pointwise` is the rest."""
        return self.work.contraction


def count(function: Callable[..., Any], *inputs: Any, **keywords: Any) -> FlopCount:
    """Run `function(*inputs, **keywords)` once and count it, in the caller's gradient mode.

    A module runs as a deep copy, with the random state restored after it; any other callable runs as it is.
    """
    counter = _Counter()
    if isinstance(function, nn.Module):
        with _rehearsal(function) as twin, counter, _names_followed(twin, counter):
            twin(*inputs, **keywords)
    else:
        with counter:
            function(*inputs, **keywords)
    return counter.result()


def count_forward(model: nn.Module, inputs: Inputs) -> FlopCount:
    """Count inference: one forward in evaluation mode without gradients, on a deep copy."""
    counter = _Counter()
    with _rehearsal(model) as twin, torch.no_grad(), counter, _names_followed(twin, counter):
        call_model(twin.eval(), inputs)
    return counter.result()


def count_training_step(model: nn.Module, inputs: Inputs) -> FlopCount | None:
    """Count forward, in training mode, and backward of the sum of all outputs, on a deep copy.

    None where there is no such step: no output has a gradient, or batch normalisation refuses the batch because
    it has a single value per channel.
    """
    counter = _Counter()
    with _rehearsal(model) as twin, torch.enable_grad(), counter, _names_followed(twin, counter):
        try:
            outputs = call_model(twin.train(), inputs)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                return None
            raise
        differentiable = [t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.requires_grad]
        if not differentiable:
            return None
        torch.stack([t.sum() for t in differentiable]).sum().backward()
    return counter.result()


def eager(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`'s wrapper, whose operations can be watched; any other as it is."""
    original: nn.Module = getattr(model, "_orig_mod", model)
    return original


@contextmanager
def _rehearsal(model: nn.Module) -> Iterator[nn.Module]:
    """A twin to run in the model's place; torch's random state is put back afterwards."""
    devices = {t.device for t in tensors_of(model) if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield copy.deepcopy(eager(model))


@contextmanager
def _names_followed(model: nn.Module, counter: _Counter) -> Iterator[None]:
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, inputs: Any) -> None:
        counter.modules.append(names.get(module))

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        counter.modules.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules: list[str | None] = []
        self.by_operation: dict[str, Work] = defaultdict(Work)
        self.by_module: dict[str, Work] = defaultdict(Work)
        self.uncovered: set[str] = set()
        self.elements = 0
        self.covered = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if name not in FORMULAS:
            with self:  # composite operations reach a mode whole under inference_mode: take them apart
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        outputs = func(*args, **kwargs)
        if not _is_view(func):
            self._record(name, func, args, kwargs, outputs)
        return outputs

    def _record(self, name: str, func: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        tensors = tuple(t for t in tree_leaves(outputs) if isinstance(t, Tensor))
        elements = max(sum(t.numel() for t in tensors), 1)
        self.elements += elements
        formula = FORMULAS.get(name)
        if formula is None:
            self.uncovered.add(name)
            return
        work = formula(Call(_bind(func, args, kwargs), tensors))
        self.covered += elements
        self.by_operation[name] += work
        for module in {m for m in self.modules if m is not None}:
            self.by_module[module] += work

    def result(self) -> FlopCount:
        return FlopCount(
            work=sum(self.by_operation.values(), Work()),
            by_operation=dict(self.by_operation),
            by_module=dict(self.by_module),
            coverage=self.covered / self.elements if self.elements else 1.0,
            uncovered=tuple(sorted(self.uncovered)),
        )


def operation_name(func: Any) -> str:
    """Key of an operation in FORMULAS: `aten::add_.Tensor` is "add", other namespaces keep theirs."""
    namespace, _, name = func._schema.name.partition("::")
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    return name if namespace == "aten" else f"{namespace}::{name}"


def _bind(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by the names of the operation's schema, defaults filled in."""
    arguments = func._schema.arguments
    bound = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    bound.update(zip((argument.name for argument in arguments), args, strict=False))
    return bound | dict(kwargs)


def _is_view(func: Any) -> bool:
    """Whether the result aliases an argument without writing to it."""
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)
