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
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in network.named_buffers():
            buffer.data.copy_(before[name])  # .data: autograd must not take this for a change of what it saved
