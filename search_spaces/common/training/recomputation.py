"""Activation checkpointing: blocks that are computed again in the backward instead of kept (Chen et al. 2016).

Batch statistics count a batch once although it is computed twice: what the second run does to buffers is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from naslab.search_spaces.common.modules.modes import buffers_kept


@contextmanager
def recomputed_blocks(model: nn.Module) -> Iterator[None]:
    """Within it no repeated block of `model` keeps activations; gradients and buffers are as without."""
    own = {block: vars(block).get("forward") for block in repeated_blocks(model)}
    for block in own:
        block.forward = partial(_recomputed, block, block.forward)
    try:
        yield
    finally:
        for block, forward in own.items():
            del block.forward  # the class's comes back, unless the instance had one
            if forward is not None:
                block.forward = forward


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost modules that stand in a list or chain beside another of their class and have parts themselves.

    Each comes once, also if several lists share it.
    """
    found: list[nn.Module] = []
    children = list(module.children())
    kinds = [type(child) for child in children]
    listed = isinstance(module, nn.ModuleList | nn.Sequential)
    for child in children:
        repeated = listed and kinds.count(type(child)) > 1 and any(True for _ in child.children())
        found += [child] if repeated else repeated_blocks(child)
    return list(dict.fromkeys(found))


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.compiler.is_compiling():  # a compiled backward makes only values again; it does nothing to buffers
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    contexts = lambda: (nullcontext(), buffers_kept(block))  # noqa: E731
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)
