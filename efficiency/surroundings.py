"""Global state that a run may disturb: random states and torch's defaults."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_states_kept(*devices: torch.device) -> Iterator[None]:
    """Torch's random states on the CPU and on `devices` are put back at the end; other GPUs are not even asked."""
    with torch.random.fork_rng(devices=[device for device in dict.fromkeys(devices) if device.type == "cuda"]):
        yield


@contextmanager
def seeded(seed: int, *devices: torch.device) -> Iterator[None]:
    """Inside, torch draws from `seed` on the CPU and on `devices`; afterwards goes on as if nothing had been drawn.

    torch.manual_seed would seed every GPU, also those whose states are not put back.
    """
    with random_states_kept(*devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
        yield


@contextmanager
def undisturbed(*devices: torch.device) -> Iterator[None]:
    """Random states of torch on the CPU and on `devices`, of Python and NumPy, the default number format and the number
    of threads are put back at the end.
    """
    state, numpy_state = random.getstate(), np.random.get_state()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    with random_states_kept(*devices):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
