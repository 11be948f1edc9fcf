"""Selects the implementation of an operation: Triton kernel, C++ loops, or plain PyTorch reference.

An operation is a pair of custom operations, forward and backward, which run anywhere; `differentiable` joins them for
autograd. Where those cannot win, the public function calls the reference instead and never gets here: below a
crossover size, in programs that are exported (they stay free of this package), and on a CPU inside torch.compile,
which fuses the reference by itself. So it does under torch.func's transforms and forward-mode gradients, which need
rules that the operations do not have.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from naslab.kernels._check import transformed
from naslab.kernels._native import library
from naslab.kernels._triton import has_triton, interpreting

P = ParamSpec("P")
R = TypeVar("R")
Way = Literal["triton", "native", "reference"]
OnGpu = Literal["always", "eager", "never"]
"""Where a Triton kernel beats plain PyTorch, as measured (docs/kernels.md): also torch.compile, only eager, neither."""
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_switched_off = os.environ.get("NASLAB_KERNELS") == "reference"
_forced = False


def fused(tensor: Tensor, crossover: int, source: str = "", on_gpu: OnGpu = "always") -> bool:
    """Whether the custom operation should run rather than the reference.

    Args:
        tensor: decides by its device, dtype and size.
        crossover: elements from which the C++ loops beat the reference on a CPU, measured.
        source: the operation's C++ loops.
        on_gpu: where the Triton kernel beats the reference.
    """
    if _switched_off or torch.compiler.is_exporting() or transformed():
        return False
    if _forced:
        return True
    if tensor.device.type == "cuda":
        pays = on_gpu == "always" or (on_gpu == "eager" and not torch.compiler.is_compiling())
        return pays and tensor.dtype in TRITON_DTYPES and has_triton()
    if tensor.device.type == "meta":
        return True
    if torch.compiler.is_compiling() or tensor.dtype != torch.float32 or tensor.numel() < crossover:
        return False
    return tensor.device.type == "cpu" and bool(source) and library(source) is not None


def way(tensor: Tensor, source: str = "") -> Way:
    """How a custom operation runs on this tensor."""
    if tensor.device.type == "cuda" or (tensor.device.type == "cpu" and interpreting()):
        return "triton" if tensor.dtype in TRITON_DTYPES else "reference"
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32 and source and library(source) is not None:
        return "native"
    return "reference"


@contextmanager
def switched(to: Literal["reference", "fused"]) -> Iterator[None]:
    """Force one way for a while: the references, or the custom operations even where they would not pay."""
    global _switched_off, _forced
    before = _switched_off, _forced
    _switched_off, _forced = to == "reference", to == "fused"
    try:
        yield
    finally:
        _switched_off, _forced = before


def widened(dtype: torch.dtype) -> torch.dtype:
    """The dtype of what is computed exactly: float64 of that, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def mean_of(losses_N: Tensor) -> Tensor:
    """The mean of rows' losses in their dtype, 0 without rows: their sum may be too large for half precision."""
    total: Tensor = losses_N.sum(dtype=widened(losses_N.dtype)) / max(losses_N.shape[0], 1)
    return total.to(losses_N.dtype)


def autocasting(tensor: Tensor) -> bool:
    """Whether autocast is on where the tensor lies; torch refuses to ask for meta."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


def full_precision(definition: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Keep autocast out of a definition: custom operations do not see it, and one operation has one precision."""

    @wraps(definition)
    def run(tensor: Tensor, /, *rest: P.args, **options: P.kwargs) -> R:
        if not autocasting(tensor):
            return definition(tensor, *rest, **options)
        with torch.autocast(tensor.device.type, enabled=False):
            return definition(tensor, *rest, **options)

    return run


def gradients(
    reference: Callable[..., Tensor], needed: Sequence[bool], grad: Tensor, *inputs: Any
) -> tuple[Tensor | None, ...]:
    """Gradients of a reference in those of its first inputs that need one."""
    wanted = [n for n, need in enumerate(needed) if need]

    def of_wanted(*primals: Tensor) -> Tensor:
        given = dict(zip(wanted, primals, strict=True))
        return reference(*(given.get(n, value) for n, value in enumerate(inputs)))

    pull = torch.func.vjp(of_wanted, *(inputs[n] for n in wanted))[1]
    back = dict(zip(wanted, pull(grad), strict=True))
    return tuple(back.get(n) for n in range(len(needed)))


def fallback(
    reference: Callable[..., Tensor], needed: Sequence[bool], grad: Tensor, *inputs: Any
) -> tuple[Tensor, ...]:
    """The same as a backward operation returns it: own memory, and nothing in it where no gradient is needed."""
    back = gradients(reference, needed, grad, *inputs)
    return tuple(grad.new_empty(0) if g is None else g.contiguous() for g in back)


def room_for(tensor: Tensor, needed: bool) -> Tensor:
    """Where the gradient of a tensor goes; empty, which loops in C++ get as null, where none is needed."""
    return tensor.new_empty(tensor.shape if needed else 0)


def differentiable(name: str, reference: Callable[..., Tensor], leading: int) -> Callable[..., Any]:
    """The custom operation `naslab::NAME`, with gradients from `naslab::NAME_backward`.

    Both take the same inputs, tensors first, constants after. Forward returns the result, or (result, *kept);
    backward, of (gradient, *kept, *inputs), one gradient for each of the `leading` first inputs, the differentiable
    ones. Where these are several it takes, last, which of them need a gradient, and returns the others empty. A tuple
    of one is no result: torch.compile would tie its graph to the sizes.
    Gradients of gradients come from the reference.
    """
    operation = getattr(torch.ops.naslab, name).default
    backward_op = getattr(torch.ops.naslab, f"{name}_backward").default

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        kept = _several(output)[1:]
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        ctx.constants = inputs[len(tensors) :]
        ctx.num_kept = len(kept)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept, *tensors)

    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        kept, tensors = saved[: ctx.num_kept], saved[ctx.num_kept :]
        num_inputs = len(tensors) + len(ctx.constants)
        needed = list(ctx.needs_input_grad[:leading])
        if grad is None:
            return (None,) * num_inputs
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            back = gradients(reference, needed, grad, *tensors, *ctx.constants)
        else:
            which = (needed,) if leading > 1 else ()
            made = _several(backward_op(grad.contiguous(), *kept, *tensors, *ctx.constants, *which))
            back = tuple(g if need else None for g, need in zip(made, needed, strict=True))
        return (*back, *(None,) * (num_inputs - len(back)))

    torch.library.register_autograd(f"naslab::{name}", backward, setup_context=setup_context)
    return operation  # type: ignore[no-any-return]


def _several(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs
