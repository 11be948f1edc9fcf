"""Counts FLOPs by observing executed operations, forward and backward, on any device or on meta.

Unlike counters that know a few operations and give the rest 0, this one says which share it knew.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from naslab.efficiency.counter import COMPLEX_CONVOLUTION, Counter
from naslab.efficiency.flop_count import FlopCount, Operation, Phase
from naslab.efficiency.fused_on_meta import FusedOnMeta
from naslab.efficiency.inputs import Inputs, call_model, tensors_of
from naslab.efficiency.kinds import EINSUM
from naslab.efficiency.state import preserved
from naslab.efficiency.threads import followed
from naslab.efficiency.training_step import NoTrainingStep, training_loss
from naslab.efficiency.unwrap import eager

__all__ = ["FlopCount", "Operation", "Phase", "count", "count_forward", "count_training_step"]


def count(function: Callable[..., Any], *inputs: Any, **keywords: Any) -> FlopCount:
    """Run `function(*inputs, **keywords)` once and count it, in the caller's gradient mode.

    A module and its inputs are afterwards as before; any other callable runs as it is.
    """
    if not isinstance(function, nn.Module):
        counter = Counter()
        with watching(counter):
            function(*inputs, **keywords)
        return counter.result()
    model = eager(function)
    with preserved(model=model, inputs=(inputs, keywords)):
        counter = Counter(model)
        with watching(counter, model):
            model(*inputs, **keywords)
    return counter.result()


def count_forward(model: nn.Module, inputs: Inputs) -> FlopCount:
    """Count inference: one forward in evaluation mode without gradients. Everything is afterwards as before.

    Weights that are zero (pruned) lower the effective work of the products that read them.

    Raises:
        InputError: the module hides its operations (see `naslab.efficiency.unwrap`).
    """
    plain = eager(model)
    with preserved(model=plain, inputs=inputs):
        return forward_count(plain, inputs)


def count_training_step(
    model: nn.Module,
    inputs: Inputs,
    optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> FlopCount | None:
    """Count forward, in training mode, and backward of the sum of all outputs. Everything is afterwards as before.

    Args:
        optimiser: makes one from the parameters, such as `torch.optim.AdamW`; its step is then counted, too.

    Returns:
        None where there is no such step: no output has a gradient, or batch normalisation refuses the batch because
        it has a single value per channel.

    Raises:
        InputError: the module hides its operations (see `naslab.efficiency.unwrap`).
    """
    plain = eager(model)
    with preserved(model=plain, inputs=inputs):
        try:
            return training_count(plain, inputs, optimiser)
        except NoTrainingStep:
            return None


def forward_count(model: nn.Module, inputs: Inputs) -> FlopCount:
    """`count_forward` of a model that its caller puts back."""
    counter = Counter(model)
    with torch.no_grad(), watching(counter, model):
        call_model(model.eval(), inputs)
    return counter.result()


def training_count(
    model: nn.Module,
    inputs: Inputs,
    optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
) -> FlopCount:
    """`count_training_step` of a model that its caller puts back.

    Raises:
        NoTrainingStep: there is none; the reason is named.
    """
    counter = Counter(model)
    with torch.enable_grad(), watching(counter, model):
        try:
            loss = training_loss(model.train(), inputs, torch.sum)
        finally:
            _refuse_severed(counter)
        loss.backward()
        if optimiser is not None:
            counter.phase = "optimiser"
            optimiser(p for p in model.parameters() if p.requires_grad).step()
    return counter.result()


def _refuse_severed(counter: Counter) -> None:
    if counter.severed:
        names = ", ".join(sorted(counter.severed))
        raise NoTrainingStep(f"the backward of control flow ({names}) cannot be counted: only torch.compile makes one")


@contextmanager
def watching(counter: Counter, model: nn.Module | None = None) -> Iterator[None]:
    """Count what runs inside; parts that were compiled run eagerly, so that their operations show."""
    # A function mode turns torch's fused encoder off, so it is there only where nothing is fused anyway.
    attention = FusedOnMeta() if model is not None and any(t.is_meta for t in tensors_of(model)) else nullcontext()
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message=".*when there are global hooks on modules.*")
        marked = _regions_marked(counter), _modules_followed(model, counter)
        with attention, counter, followed(counter.handed_over), marked[0], marked[1]:
            yield


@contextmanager
def _regions_marked(counter: Counter) -> Iterator[None]:
    """At the dispatcher an einsum is the products it was taken apart into, and a complex convolution three real ones;
    only their Python entries tell them apart. A function mode would see them, too, but turns the fused encoder off.
    """
    with ExitStack() as entries:
        # Every way to call an einsum ends in this attribute.
        entries.enter_context(_entry(torch.functional._VF, "einsum", lambda *_: EINSUM, counter))  # type: ignore[attr-defined]
        for place in (torch, F):
            for name in _CONVOLUTIONS:
                entries.enter_context(_entry(place, name, _complex_convolution, counter))
        yield


_CONVOLUTIONS = tuple(f"conv{kind}{dimensions}d" for kind in ("", "_transpose") for dimensions in (1, 2, 3))


def _complex_convolution(*args: Any) -> str | None:
    return COMPLEX_CONVOLUTION if any(isinstance(one, Tensor) and one.is_complex() for one in args) else None


@contextmanager
def _entry(place: Any, name: str, region_of: Callable[..., str | None], counter: Counter) -> Iterator[None]:
    """`place.name` opens a region of the counter, where `region_of` its arguments says so."""
    original, earlier = getattr(place, name), vars(place).get(name)

    def marked(*args: Any, **kwargs: Any) -> Any:
        region = region_of(*args, *kwargs.values())
        with nullcontext() if region is None else counter.region(region):
            return original(*args, **kwargs)

    setattr(place, name, marked)
    try:
        yield
    finally:
        if earlier is None:
            delattr(place, name)
        else:
            setattr(place, name, earlier)  # a count within a count


@contextmanager
def _modules_followed(model: nn.Module | None, counter: Counter) -> Iterator[None]:
    """Tell the counter which module runs: hooks see calls, and a wrapper sees those of `forward` itself."""
    names = {} if model is None else {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, inputs: Any) -> None:
        counter.enter(module, names.get(module))

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        counter.leave(outputs)

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    with ExitStack() as wrapped:
        for module, name in names.items():
            if not isinstance(module, torch.jit.ScriptModule):
                wrapped.enter_context(_forward_followed(module, name, counter))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _forward_followed(module: nn.Module, name: str, counter: Counter) -> Iterator[None]:
    original, attributes = module.forward, vars(module)
    earlier = attributes.get("forward")

    @functools.wraps(original)
    def followed(*args: Any, **kwargs: Any) -> Any:
        if counter.inside(module):
            return original(*args, **kwargs)
        counter.enter(module, name)
        outputs = None
        try:
            outputs = original(*args, **kwargs)
            return outputs
        finally:
            counter.leave(outputs)

    attributes["forward"] = followed
    try:
        yield
    finally:
        if earlier is None:
            attributes.pop("forward", None)
        else:
            attributes["forward"] = earlier
