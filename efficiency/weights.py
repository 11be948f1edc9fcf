"""Which tensors of a run are weights, and how many of their elements are zero: those are multiplied in vain."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from naslab.efficiency.tensors import is_plain, tensors_within
from naslab.efficiency.work import Call

OPERANDS = ("weight", "mat2", "self", "mat1", "batch1", "batch2", "mat", "vec")
"""Arguments that a product or convolution may have its weights in."""


class WeightTensors:
    """Follows what a model's parameters become before a product reads them: views, casts, masks, sums."""

    def __init__(self, model: nn.Module | None) -> None:
        self._weights, self._constants = _Storages(), _Storages()
        self._shares: dict[tuple[Any, ...], float] = {}
        for parameter in () if model is None else model.parameters():
            self._weights.add(parameter)
        for buffer in () if model is None else model.buffers():
            self._constants.add(buffer)

    def follow(self, args: Any, kwargs: Any, outputs: Iterable[Tensor]) -> None:
        """What is computed from weights, and buffers beside them, is a weight; what data are written to is none."""
        operands = list(tensors_within((args, kwargs)))
        fixed = bool(operands) and all(t in self._weights or t in self._constants for t in operands)
        weight = fixed and any(t in self._weights for t in operands)
        for output in outputs:
            if weight:
                self._weights.add(output)
            elif fixed:
                self._constants.add(output)
            else:
                self._weights.drop(output)
                self._constants.drop(output)

    def zero_share(self, call: Call) -> float:
        """Share of zeros in the weight that a product or convolution reads; 0 where it reads none."""
        found = (call.arguments.get(name) for name in OPERANDS)
        weights = [t for t in found if isinstance(t, Tensor) and t in self._weights]
        return max(map(self._share, weights), default=0.0)

    def _share(self, weight: Tensor) -> float:
        place = (weight.untyped_storage()._cdata, weight.storage_offset(), weight.numel(), weight._version)
        if place not in self._shares:
            self._shares[place] = 1 - int(weight.count_nonzero()) / max(weight.numel(), 1)
        return self._shares[place]


class _Storages:
    """Storages of dense tensors, for as long as they live."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def __contains__(self, tensor: Tensor) -> bool:
        return _is_readable(tensor) and tensor.untyped_storage()._cdata in self._known

    def add(self, tensor: Tensor) -> None:
        if _is_readable(tensor) and tensor not in self:
            storage = tensor.untyped_storage()
            self._known.add(storage._cdata)
            weakref.finalize(storage, self._known.discard, storage._cdata)

    def drop(self, tensor: Tensor) -> None:
        if tensor in self:
            self._known.discard(tensor.untyped_storage()._cdata)


def _is_readable(tensor: Tensor) -> bool:
    return is_plain(tensor) and not tensor.is_meta and not tensor.is_quantized
