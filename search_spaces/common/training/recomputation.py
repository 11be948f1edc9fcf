"""Activation checkpointing: blocks that are computed again in the backward instead of kept (Chen et al. 2016).

Batch statistics count a batch once although it is computed twice: what the second run does to buffers is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


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
    contexts = lambda: (nullcontext(), _buffers_kept(block))  # noqa: E731
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _buffers_kept(module: nn.Module) -> AbstractContextManager[None]:
    @contextmanager
    def kept() -> Iterator[None]:
        before = [(buffer, buffer.clone()) for buffer in module.buffers()]
        try:
            yield
        finally:
            for buffer, value in before:
                buffer.data.copy_(value)  # .data: autograd must not take this for a change of what it saved

    return kept()
