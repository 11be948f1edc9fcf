"""Counting FLOPs by watching the operations that really run, forward and backward, on any device or on meta.

Unlike counters that know a few operations and give the rest 0, this one says which share it knew.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from naslab.efficiency.formulas import FORMULAS, Call, Work
from naslab.efficiency.inputs import Inputs, call_model, tensors_of
from naslab.efficiency.kinds import EINSUM, kind_of
from naslab.efficiency.traffic import bytes_moved
from naslab.efficiency.unwrap import eager

Phase: TypeAlias = Literal["forward", "backward", "optimiser"]


@dataclass(frozen=True)
class Operation:
    """One executed operation. `modules` are the names of the modules it ran for, outermost first; a backward
    operation belongs to the modules of the forward operation whose gradient it takes. `elements` are those of its
    results, the weight of the operation in the coverage.
    """

    name: str
    kind: str
    phase: Phase
    modules: tuple[str, ...]
    dtype: torch.dtype
    work: Work
    bytes_moved: int
    elements: int
    covered: bool


@dataclass(frozen=True)
class FlopCount:
    """What a run executed, for the whole batch; a multiply-add is 2. Everything here is summed from `operations`."""

    operations: tuple[Operation, ...]

    @cached_property
    def work(self) -> Work:
        """FLOPs of all operations."""
        return _sum(self.operations)

    @property
    def total(self) -> int:
        """FLOPs of all contractions, the figure that the literature calls FLOPs; `work.pointwise` is the rest."""
        return self.work.contraction

    @cached_property
    def bytes_moved(self) -> int:
        """Bytes that the operations read and write, each by itself; see `naslab.efficiency.traffic`."""
        return sum(operation.bytes_moved for operation in self.operations)

    @cached_property
    def by_operation(self) -> Mapping[str, Work]:
        """Work by the operation's name."""
        return _grouped((operation.name, operation) for operation in self.operations if operation.covered)

    @cached_property
    def by_kind(self) -> Mapping[str, Work]:
        """Work by kind, see `naslab.efficiency.kinds`."""
        return _grouped((operation.kind, operation) for operation in self.operations)

    @cached_property
    def by_phase(self) -> Mapping[str, Work]:
        """Work of forward, backward and optimiser."""
        return _grouped((operation.phase, operation) for operation in self.operations)

    @cached_property
    def by_module(self) -> Mapping[str, Work]:
        """Forward work of each module with its children, by the names of `named_modules`; "" is the model."""
        return self._of_modules("forward")

    @cached_property
    def backward_by_module(self) -> Mapping[str, Work]:
        """Backward work of each module with its children."""
        return self._of_modules("backward")

    @cached_property
    def coverage(self) -> float:
        """Share, by elements of their results, of the executed operations that had a formula. Views alias, so they
        have no elements of their own and are left out.
        """
        elements = sum(operation.elements for operation in self.operations)
        covered = sum(operation.elements for operation in self.operations if operation.covered)
        return covered / elements if elements else 1.0

    @cached_property
    def uncovered(self) -> tuple[str, ...]:
        """Names of the operations that had no formula."""
        return tuple(sorted({operation.name for operation in self.operations if not operation.covered}))

    def _of_modules(self, phase: Phase) -> Mapping[str, Work]:
        return _grouped(
            (m, operation) for operation in self.operations if operation.phase == phase for m in operation.modules
        )


def _sum(operations: Iterable[Operation]) -> Work:
    return sum((operation.work for operation in operations), Work())


def _grouped(keyed: Iterable[tuple[str, Operation]]) -> Mapping[str, Work]:
    groups: dict[str, Work] = defaultdict(Work)
    for key, operation in keyed:
        groups[key] += operation.work
    return dict(groups)


def count(function: Callable[..., Any], *inputs: Any, **keywords: Any) -> FlopCount:
    """Run `function(*inputs, **keywords)` once and count it, in the caller's gradient mode.

    A module runs as a deep copy, with the random state restored after it; any other callable runs as it is.
    """
    counter = _Counter()
    if isinstance(function, nn.Module):
        with _rehearsal(function) as twin, _watching(counter, twin):
            twin(*inputs, **keywords)
    else:
        with _watching(counter):
            function(*inputs, **keywords)
    return counter.result()


def count_forward(model: nn.Module, inputs: Inputs) -> FlopCount:
    """Count inference: one forward in evaluation mode without gradients, on a deep copy.

    Weights that are zero (pruned) lower the effective work of linear layers and convolutions.

    Raises:
        InputError: the module hides its operations (see `naslab.efficiency.unwrap`).
    """
    counter = _Counter()
    with _rehearsal(model) as twin, torch.no_grad(), _watching(counter, twin):
        call_model(twin.eval(), inputs)
    return counter.result()


def count_training_step(
    model: nn.Module,
    inputs: Inputs,
    optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> FlopCount | None:
    """Count forward, in training mode, and backward of the sum of all outputs, on a deep copy.

    Args:
        optimiser: makes one from the parameters, such as `torch.optim.AdamW`; its step is then counted, too.

    Returns:
        None where there is no such step: no output has a gradient, or batch normalisation refuses the batch because
        it has a single value per channel.

    Raises:
        InputError: the module hides its operations (see `naslab.efficiency.unwrap`).
    """
    counter = _Counter()
    with _rehearsal(model) as twin, torch.enable_grad(), _watching(counter, twin):
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
        if optimiser is not None:
            counter.phase = "optimiser"
            optimiser(p for p in twin.parameters() if p.requires_grad).step()
    return counter.result()


@contextmanager
def _rehearsal(model: nn.Module) -> Iterator[nn.Module]:
    """A twin to run in the model's place; torch's random state is put back afterwards."""
    devices = {t.device for t in tensors_of(model) if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield copy.deepcopy(eager(model))


@contextmanager
def _watching(counter: _Counter, model: nn.Module | None = None) -> Iterator[None]:
    """Count what runs inside; parts that were compiled run eagerly, so that their operations show."""
    # A function mode turns torch's fused encoder off, so it is there only where nothing is fused anyway.
    attention = _FusedOnMeta() if model is not None and any(t.is_meta for t in tensors_of(model)) else nullcontext()
    torch.compiler.set_stance("force_eager")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*when there are global hooks on modules.*")
            with attention, counter, _einsums_marked(counter), _names_followed(model, counter):
                yield
    finally:
        torch.compiler.set_stance("default")


@contextmanager
def _einsums_marked(counter: _Counter) -> Iterator[None]:
    """At the dispatcher an einsum is the products it was taken apart into; only its Python entry tells them apart.
    Every way to call it ends in this attribute. A function mode would see it, too, but turns the fused encoder off.
    """
    entry: Any = torch.functional._VF  # type: ignore[attr-defined]
    original, earlier = entry.einsum, vars(entry).get("einsum")

    def marked(*args: Any, **kwargs: Any) -> Any:
        with counter.einsum():
            return original(*args, **kwargs)

    entry.einsum = marked
    try:
        yield
    finally:
        if earlier is None:
            del entry.einsum
        else:
            entry.einsum = earlier  # a count within a count


@contextmanager
def _names_followed(model: nn.Module | None, counter: _Counter) -> Iterator[None]:
    names = {} if model is None else {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, inputs: Any) -> None:
        counter.enter(module, names.get(module))

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        counter.leave()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Counter(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase: Phase = "forward"
        self._stack: list[tuple[nn.Module | None, tuple[str, ...]]] = [(None, ())]
        self._origin: dict[int, tuple[tuple[str, ...], bool]] = {}
        self._in_einsum = False
        self._zeros: dict[nn.Module, float] = {}
        self._operations: list[Operation] = []

    def enter(self, module: nn.Module, name: str | None) -> None:
        outer = self._stack[-1][1]
        self._stack.append((module, outer if name is None or name in outer else (*outer, name)))

    def leave(self) -> None:
        self._stack.pop()

    @contextmanager
    def einsum(self) -> Iterator[None]:
        """The products inside are torch.einsum's."""
        outer, self._in_einsum = self._in_einsum, True
        try:
            yield
        finally:
            self._in_einsum = outer

    def result(self) -> FlopCount:
        return FlopCount(tuple(self._operations))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if name not in FORMULAS and hasattr(func, "decompose"):
            with self:  # composite operations reach a mode whole under inference_mode: take them apart
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        phase, modules, einsum = self._locate()
        outputs = func(*args, **kwargs)
        if not (_is_view(func) or name.startswith("profiler::")):
            call = Call(_bind(func, args, kwargs), _tensors(outputs))
            self._record(name, phase, modules, call, _is_mutable(func), einsum)
        return outputs

    def _locate(self) -> tuple[Phase, tuple[str, ...], bool]:
        """Phase, modules, and whether it is part of an einsum.

        Autograd numbers its nodes as the forward makes them, just before the operation itself runs; the node whose
        gradient is being taken so leads back to the module.
        """
        here = self._stack[-1][1]
        node = torch._C._current_autograd_node()
        if node is None:
            self._origin.setdefault(torch.autograd._get_sequence_nr() - 1, (here, self._in_einsum))
            return self.phase, here, self._in_einsum
        if here:  # checkpointing runs a module's forward again
            return "backward", here, self._in_einsum
        return "backward", *self._origin.get(node._sequence_nr(), ((), False))

    def _record(
        self, name: str, phase: Phase, modules: tuple[str, ...], call: Call, mutable: bool, einsum: bool
    ) -> None:
        formula = FORMULAS.get(name)
        work = Work() if formula is None else formula(call)
        if work.contraction and call.outputs[0].is_complex():  # a complex multiply-add is four real ones
            work = replace(work, contraction=4 * work.contraction, masked=4 * work.masked)
        if work.contraction and phase == "forward":
            work = self._without_pruned(work)
        self._operations.append(
            Operation(
                name=name,
                kind=EINSUM if einsum and work.contraction else kind_of(name, call),
                phase=phase,
                modules=modules,
                dtype=next((t.dtype for t in call.outputs if t.is_floating_point()), torch.get_default_dtype()),
                work=work,
                bytes_moved=bytes_moved(name, call, mutable),
                elements=max(sum(t.numel() for t in call.outputs), 1),
                covered=formula is not None,
            )
        )

    def _without_pruned(self, work: Work) -> Work:
        """The work of a linear layer or convolution, its zero weights told apart: a dense kernel multiplies them."""
        module = self._stack[-1][0]
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or work.masked or module.weight.is_meta:
            return work
        if module not in self._zeros:
            weight = module.weight.detach()
            self._zeros[module] = 1 - int(weight.count_nonzero()) / max(weight.numel(), 1)
        return replace(work, masked=round(work.contraction * self._zeros[module]))


class _FusedOnMeta(TorchFunctionMode):
    """Calls the fused attention on meta, where torch takes `scaled_dot_product_attention` apart into products, so
    that a count does not depend on whether the weights are there.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def _attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    fused = query.is_meta and query.ndim == 4 and query.shape[-1] == value.shape[-1] and query.is_floating_point()
    if not fused:
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    given = dict(zip(("attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
    mask = given.get("attn_mask")
    if mask is not None and mask.requires_grad and torch.is_grad_enabled():
        # No fused operation gives a learned mask its gradient; on a CPU, too, torch then takes attention apart.
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    if mask is not None and mask.dtype == torch.bool:
        mask = mask.to(query.dtype)
    outputs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, bool(given.get("is_causal", False)), attn_mask=mask, scale=given.get("scale")
    )
    attended: Tensor = outputs[0]
    return attended


def operation_name(func: Any) -> str:
    """Key of an operation in FORMULAS: `aten::add_.Tensor` is "add", other namespaces keep theirs."""
    if not hasattr(func, "_schema"):
        return f"higher_order::{func.name()}"
    namespace, _, name = func._schema.name.partition("::")
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    return name if namespace == "aten" else f"{namespace}::{name}"


def _bind(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by the names of the operation's schema, defaults filled in."""
    if not hasattr(func, "_schema"):
        names = ("query", "key", "value", "score_mod", "block_mask")
        return dict(zip(names, args, strict=False)) | dict(kwargs)
    arguments = func._schema.arguments
    bound = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    bound.update(zip((argument.name for argument in arguments), args, strict=False))
    return bound | dict(kwargs)


def _tensors(outputs: Any) -> tuple[Tensor, ...]:
    return tuple(t for t in tree_leaves(outputs) if isinstance(t, Tensor))


def _is_mutable(func: Any) -> bool:
    return bool(hasattr(func, "_schema") and func._schema.is_mutable)


def _is_view(func: Any) -> bool:
    """Whether the result aliases an argument without writing to it."""
    if not hasattr(func, "_schema"):
        return False
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)
