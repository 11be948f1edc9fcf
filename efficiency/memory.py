"""Peak memory of a call: the allocator's own figure on CUDA, live tensor bytes on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _LiveBytes(TorchDispatchMode):
    """Sum of the distinct storages alive after each operation; temporaries inside an operation are not seen."""

    def __init__(self, resident: Iterable[Tensor]) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self._see(resident)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._see(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def _see(self, tensors: Iterable[Tensor]) -> None:
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))


def peak_memory_bytes(call: Callable[[], Any], resident: Iterable[Tensor], device: torch.device) -> int:
    """Most bytes alive at once during one call.

    Args:
        resident: what is there before and after: parameters, buffers, inputs.
        device: on CUDA the figure is `max_memory_allocated`, which sees the operations' workspaces too.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return int(torch.cuda.max_memory_allocated(device))
    mode = _LiveBytes(resident)
    with mode:
        call()
    return mode.peak
