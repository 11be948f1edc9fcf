"""Which tensors of a run are weights, and how many of their elements are zero."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from naslab.efficiency.tensors import is_abstract, is_plain, stored_elements, tensors_within
from naslab.efficiency.work import Call

FACTORS = ("weight", "mat2", "mat1", "batch1", "batch2", "mat", "vec", "i2", "tensor", "other")
"""Arguments that a product or convolution may have its weights in, beside `self`."""
ADDED_TO = ("mat1", "batch1", "mat")
"""Where there is one of these, `self` is added and not multiplied: a bias of zeros saves nothing."""


MATRICES = ("weight0", "weight1", "qkv_weight", "proj_weight", "ffn_weight_1", "ffn_weight_2", "weight")
ROWS = ("input", "src", "query")
"""Of a fused layer: its weight matrices, one argument each or in a list, and what every row meets them with."""


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
            elif fixed or not operands:  # made from nothing, such as a mask
                self._constants.add(output)
            else:
                self._weights.drop(output)
                self._constants.drop(output)

    def in_vain(self, call: Call, contraction: int) -> int:
        """Of the FLOPs of a product, a convolution or a fused layer, those that multiply by zeros of its weights."""
        fused = [
            w for name in MATRICES for w in _listed(call.arguments.get(name)) if w in self._weights and w.ndim == 2
        ]
        rows = next((call.arguments[name] for name in ROWS if name in call.arguments), None)
        if len(fused) > 1 and rows is not None:
            zeros = sum(round(self._share(weight) * weight.numel()) for weight in fused)
            return 2 * (stored_elements(rows) // int(rows.size(-1))) * zeros
        return round(contraction * self._zero_share(call))

    def _zero_share(self, call: Call) -> float:
        """Share of zeros in the weight that a product or convolution reads; 0 where it reads none."""
        added = any(name in call.arguments for name in ADDED_TO)
        found = (call.arguments.get(name) for name in (FACTORS if added else ("self", *FACTORS)))
        weights = [t for t in found if isinstance(t, Tensor) and t in self._weights]
        return max(map(self._share, weights), default=0.0)

    def _share(self, weight: Tensor) -> float:
        place = (weight.untyped_storage()._cdata, weight.storage_offset(), weight.numel(), weight._version)
        if place not in self._shares:
            is_float8 = weight.is_floating_point() and weight.itemsize == 1  # torch cannot count these as they are
            nonzero = int((weight.float() if is_float8 else weight).count_nonzero())
            self._shares[place] = 1 - nonzero / max(weight.numel(), 1)
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


def _listed(argument: Any) -> list[Tensor]:
    found = argument if isinstance(argument, (list, tuple)) else [argument]
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


def _is_readable(tensor: Tensor) -> bool:
    return is_plain(tensor) and not is_abstract(tensor) and not tensor.is_quantized
