"""The plain module inside wrappers, which can be observed and copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from naslab.errors import InputError


def as_module(model: Callable[..., Any]) -> nn.Module:
    """A module as it is; any other function as one that calls it.

    Raises:
        InputError: it cannot be called.
    """
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise InputError(f"model: a {type(model).__name__} cannot be called; give a module or a function of tensors")
    return Function(model)


class Function(nn.Module):
    """A function as a module. Modules that it belongs to or closes over are its children."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        owner = getattr(function, "__self__", None)
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        for index, held in enumerate(part for part in (owner, *cells) if isinstance(part, nn.Module)):
            self.add_module(str(index), held)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The function's value."""
        return self.function(*args, **kwargs)


def eager(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, `DataParallel` and `DistributedDataParallel`; any other as it is.

    Raises:
        InputError: the operations of such a module cannot be watched; the reason is named.
    """
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            raise InputError("model: a TorchScript module hides its operations; profile the module it was made from")
        if any(_is_sharded(module) for module in model.modules()):
            raise InputError("model: a sharded (FSDP) module holds a part of each weight; profile it before sharding")
        if isinstance(model, torch.fx.GraphModule) and "eval" in vars(model):
            raise InputError("model: an exported program stays in one mode; profile the module it was exported from")
        if (name := _without_shape(model)) is not None:
            raise InputError(f"model: {name} is lazy and has no shape yet; call the model on a batch first")
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _without_shape(model: nn.Module) -> str | None:
    """The name of a lazy module whose parameters or buffers wait for the first call, or None."""
    lazy = (n for n, module in model.named_modules() if getattr(module, "has_uninitialized_params", bool)())
    return next((name or type(model).__name__ for name in lazy), None)


def _is_sharded(module: nn.Module) -> bool:
    return hasattr(module, "_fsdp_wrapped_module") or type(module).__name__.startswith("FSDP")


def is_compiled(model: nn.Module) -> bool:
    """Whether calling the model, or a part of it, runs what `torch.compile` made."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
