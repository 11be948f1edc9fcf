"""CUDA graphs: runs beforehand on a stream aside, and a capture that leaves nothing behind where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def aside(stream: torch.cuda.Stream, device: torch.device, *, cuda: Any = torch.cuda) -> Iterator[None]:
    """Work on a stream of its own, behind what the current one has to do and before what it gets to do next.

    So must run what is to be captured: a capture needs memory and library handles that were first made outside.
    """
    current = cuda.current_stream(device)
    stream.wait_stream(current)
    with cuda.stream(stream):
        yield
    current.wait_stream(stream)


def reason(error: RuntimeError) -> str:
    """What of a failed capture's error tells why, without CUDA's general advice."""
    return str(error).strip().split("\n")[0]


def capture(
    function: Callable[[], Any],
    device: torch.device,
    stream: torch.cuda.Stream | None = None,
    generator: torch.Generator | None = None,
    pool: Any = None,
    *,
    cuda: Any = torch.cuda,
) -> Callable[[], None]:
    """The replay of what a function launches; the function has run before, on the stream, but does not here.

    Args:
        stream: to record on; None: one of its own.
        generator: random numbers of the function's own, beside the device's.
        pool: memory that other graphs use too, which are not replayed while the results of this one are needed.
        cuda: torch.cuda; replaced in tests.

    Raises:
        RuntimeError: it cannot be recorded.
    """
    graph, current = cuda.CUDAGraph(), cuda.current_stream(device)
    index = cuda.current_device() if device.index is None else device.index
    default = cuda.default_generators[index]
    states = [(default, default.clone_state())]
    if generator is not None:
        states.append((generator, generator.clone_state()))
        graph.register_generator_state(generator)
    try:
        # Other threads, which may fetch the next batch, are none of the recording's business.
        with cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            function()
    except RuntimeError:
        # A capture that breaks off leaves its stream as the current one, and the generators recording.
        cuda.set_stream(current)
        for each, state in states:
            each.graphsafe_set_state(state)
        raise
    replay: Callable[[], None] = graph.replay
    return replay
