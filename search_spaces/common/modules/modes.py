"""A network that is asked something in the middle of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Without dropout and gradients, as long as this lasts."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


@contextmanager
def buffers_kept(network: nn.Module) -> Iterator[None]:
    """Batch statistics, queues and all other buffers are afterwards as before, whatever forwards ran inside."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            buffer.data.copy_(value)  # .data: autograd must not take this for a change of what it saved
            module._buffers[name] = buffer  # a forward may have put another in its place
