"""Peak memory of a forward.

CUDA: the allocator's own record. CPU: exact accounting of storages, see `LiveBytes`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from naslab.efficiency.formulas import FORMULAS
from naslab.efficiency.higher_order import run_watched
from naslab.efficiency.inputs import Inputs, call_model, device_of, tensors_in, tensors_of
from naslab.efficiency.schemas import is_higher_order, operation_name
from naslab.efficiency.tensors import is_plain, is_wrapper, parts_of, tensors_within
from naslab.efficiency.threads import followed


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of the model's parameters, shared ones once, and of what quantised layers keep in their place. Of a
    parameter that is a part of a larger storage, its own.
    """
    parameters = {_place(p): p for p in model.parameters()}
    held = [*parameters.values(), *quantised_weights(model)]
    return sum(part.numel() * part.element_size() for t in held for part in (parts_of(t) if is_wrapper(t) else [t]))


def _place(parameter: Tensor) -> object:
    """Where a parameter's numbers are, so that two of the same are known for one."""
    if not is_plain(parameter) or parameter.is_meta or is_wrapper(parameter):
        return id(parameter)
    return parameter.data_ptr(), parameter.dtype, tuple(parameter.shape), parameter.stride()


def parameter_count(model: nn.Module) -> int:
    """Elements of the model's parameters, shared ones once, and of what quantised layers keep in their place."""
    return sum(p.numel() for p in model.parameters()) + sum(t.numel() for t in quantised_weights(model))


def quantised_weights(model: nn.Module) -> list[Tensor]:
    """Weights and biases of layers quantised by `torch.ao`, which pack them out of sight and give them by a call."""
    found = []
    for module in model.modules():
        if not type(module).__module__.startswith("torch.ao."):
            continue
        for name in ("weight", "bias"):
            packed = getattr(module, name, None)
            if isinstance(packed, MethodType) and isinstance(tensor := packed(), Tensor):
                found.append(tensor)
    return found


def peak_memory_bytes(model: nn.Module, inputs: Inputs) -> int:
    """Most bytes held at once during one forward: parameters, buffers, inputs and every intermediate tensor.

    The model runs in the caller's mode. Other tensors of this process on the device are not counted.
    """
    return peak_memory(model, inputs)[0]


def peak_memory(model: nn.Module, inputs: Inputs) -> tuple[int, int | None]:
    """`peak_memory_bytes`, and on CUDA what the allocator reserved for it."""
    device = device_of(model, inputs)
    packed = quantised_weights(model)  # stand for those that are out of sight, for as long as the model runs
    live = LiveBytes([*tensors_of(model), *packed, *tensors_in(inputs)])
    if device.type == "cuda":
        torch.cuda.empty_cache()
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        most_allocated, most_reserved = cuda_peaks(lambda: call_model(model, inputs), device)
        return most_allocated - allocated + live.now, most_reserved - reserved + live.now
    with torch.compiler.set_stance("force_eager"), live.watching():  # compiled parts would be out of its sight
        call_model(model, inputs)
    return live.peak, None


def cuda_peaks(function: Callable[[], Any], device: torch.device) -> tuple[int, int]:
    """`torch.cuda.max_memory_allocated` and `max_memory_reserved` of one call: what tensors held, and what the
    allocator took from the device for them, blocks cut and kept for later included.
    """
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # what earlier work left reserved is not this call's
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)), int(torch.cuda.max_memory_reserved(device))


class LiveBytes(TorchDispatchMode):
    """The sum of the sizes of all distinct storages that an operation returned and that are still alive.

    Exact for what tensors hold. It does not see a kernel's internal workspace, the intermediates inside one fused
    operation, or the allocator's rounding; resident memory of the process is therefore larger. `known` tensors
    count from the start.
    """

    supports_higher_order_operators = True

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        for tensor in known:
            self._see(tensor)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """On inside, also in the threads to which work is handed."""
        with self, followed(lambda: lambda: self):
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_higher_order(func) and operation_name(func) not in FORMULAS:
            outputs = run_watched(self, func, args, kwargs or {})
        else:
            outputs = func(*args, **(kwargs or {}))
        for tensor in tensors_within(outputs):
            self._see(tensor)
        return outputs

    def _see(self, tensor: Tensor) -> None:
        for part in parts_of(tensor):
            self._see_storage(part.untyped_storage())

    def _see_storage(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._forget, key)
        self.now += size - self._sizes.get(key, 0)  # a known storage may have been resized
        self._sizes[key] = size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
