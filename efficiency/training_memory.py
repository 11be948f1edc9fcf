"""Memory of a training step: what holds it at the peak, and a forecast for a batch that was never run."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from efficiency.errors import InputError
from efficiency.inputs import Inputs, batch_size, call_model, map_tensors, tensors_in, tensors_of
from efficiency.memory import LiveBytes
from efficiency.training_step import MakeOptimiser
from efficiency.unwrap import eager


@dataclass(frozen=True)
class MemorySplit:
    """Bytes held at the peak of a training step. `parameters` includes buffers; `activations` is all that is none of
    the others: what autograd saved, and intermediates.
    """

    peak: int
    parameters: int
    gradients: int
    optimiser_state: int
    inputs: int

    @property
    def activations(self) -> int:
        """Bytes of activations at the peak."""
        return self.peak - self.parameters - self.gradients - self.optimiser_state - self.inputs


def training_memory(
    model: nn.Module, inputs: Inputs, optimiser: MakeOptimiser = torch.optim.AdamW
) -> MemorySplit | None:
    """The peak of the second training step (the first makes the optimiser's state), by exact accounting of storages.

    Works on meta tensors, too. A deep copy is trained. None where no output has a gradient.
    """
    twin = copy.deepcopy(eager(model)).train()
    trained = [p for p in twin.parameters() if p.requires_grad]
    if not trained:
        return None
    made = optimiser(trained)
    live = _LiveStep(twin, made, inputs)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), live:
        for _ in range(2):
            outputs = tree_leaves(call_model(twin, inputs))
            means = [t.mean() for t in outputs if isinstance(t, Tensor) and t.requires_grad]
            if not means:
                return None
            loss = torch.stack(means).sum()
            del outputs, means
            loss.backward()
            del loss
            made.step()
            made.zero_grad()
    return live.split


def forecast_peak_bytes(model: nn.Module, inputs: Inputs, batch: int, *, training: bool) -> int | None:
    """Peak bytes of tensors for a batch of another size, found on meta tensors: nothing of that size is allocated.

    The first dimension of every input tensor that has the given batch's size is set to `batch`. Kernels' workspace and
    the allocator's rounding are not in it. None where training was asked for and no output has a gradient.

    Raises:
        InputError: the model does not run on meta tensors; the reason is named.
    """
    given = batch_size(inputs)
    twin = copy.deepcopy(eager(model)).to("meta")

    def resized(tensor: Tensor) -> Tensor:
        shape = (batch, *tensor.shape[1:]) if tensor.ndim and tensor.shape[0] == given else tensor.shape
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    wanted = map_tensors(resized, inputs)
    try:
        if training:
            split = training_memory(twin, wanted)
            return None if split is None else split.peak
        live = LiveBytes([*tensors_of(twin), *tensors_in(wanted)])
        with torch.no_grad(), live:
            call_model(twin.eval(), wanted)
        return live.peak
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"memory forecast: the model does not run on meta tensors: {reason}") from None


def largest_batch(model: nn.Module, inputs: Inputs, memory_bytes: int, *, training: bool) -> int:
    """The largest batch whose forecast stays within `memory_bytes`; 0 if not even one sample does.

    Raises:
        InputError: the model does not run on meta tensors, or has nothing to train.
    """

    def fits(batch: int) -> bool:
        peak = forecast_peak_bytes(model, inputs, batch, training=training)
        if peak is None:
            raise InputError("memory forecast: the model has nothing to train")
        return peak <= memory_bytes

    smallest = 2 if training else 1  # batch normalisation cannot train on one sample
    if not fits(smallest):
        return 0
    low, high = smallest, 2 * smallest
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def resident_peak_bytes(build: Callable[[], tuple[nn.Module, Inputs]], *, training: bool = False) -> int:
    """Growth of a fresh process's resident memory, at its peak, from building the model and running it once.

    Args:
        build: makes model and inputs on the CPU; a function of a module, so that the process can find it.

    Raises:
        InputError: `build` cannot be sent to another process.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with context.Pool(1) as pool:
            return pool.apply(_resident, (build, training))
    except (pickle.PicklingError, AttributeError) as error:
        raise InputError(f"resident memory: the model cannot be built in a fresh process: {error}") from None


def _resident(build: Callable[[], tuple[nn.Module, Inputs]], training: bool) -> int:
    before = _status("VmRSS")
    model, inputs = build()
    with torch.set_grad_enabled(training):
        outputs = tree_leaves(call_model(model.train(training), inputs))
        if training:
            torch.stack([t.mean() for t in outputs if isinstance(t, Tensor) and t.requires_grad]).sum().backward()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Bytes from the kernel's record of this process (getrusage would tell the parent's peak)."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert match is not None
    return 1024 * int(match[1])


class _LiveStep(LiveBytes):
    """Looks at each new peak how much of it gradients and the optimiser's state hold."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, inputs: Inputs) -> None:
        super().__init__()
        self.split = MemorySplit(0, 0, 0, 0, 0)
        self._parameters = list(model.parameters())
        self._optimiser = optimiser
        self._fixed = LiveBytes(tensors_of(model)).now, LiveBytes(tensors_in(inputs)).now
        for tensor in (*tensors_of(model), *tensors_in(inputs)):
            self._see(tensor)

    def _see(self, tensor: Tensor) -> None:
        before = self.peak
        super()._see(tensor)
        if self.peak > before:
            gradients = _bytes(p.grad for p in self._parameters)
            state = _bytes(tree_leaves(list(self._optimiser.state.values())))
            self.split = MemorySplit(self.peak, self._fixed[0], gradients, state, self._fixed[1])


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.untyped_storage().nbytes() for value in values if isinstance(value, Tensor))
