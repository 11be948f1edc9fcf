"""Activation checkpointing: blocks that are computed again in the backward instead of kept (Chen et al. 2016).

Batch statistics count a batch once although it is computed twice: what the second run does to buffers is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from naslab.search_spaces.common.modules.modes import buffers_kept


@contextmanager
def recomputed_blocks(model: nn.Module) -> Iterator[None]:
    """Within it no repeated block of `model` keeps activations; gradients and buffers are as without."""
    blocks = repeated_blocks(model)
    for block in blocks:
        block.forward = partial(_recomputed, block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the instance's; the class's comes back


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost modules that stand in a list or chain beside another of their class and have parts themselves."""
    found: list[nn.Module] = []
    children = list(module.children())
    kinds = [type(child) for child in children]
    listed = isinstance(module, nn.ModuleList | nn.Sequential)
    for child in children:
        repeated = listed and kinds.count(type(child)) > 1 and any(True for _ in child.children())
        found += [child] if repeated else repeated_blocks(child)
    return found


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    contexts = lambda: (nullcontext(), buffers_kept(block))  # noqa: E731
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)
