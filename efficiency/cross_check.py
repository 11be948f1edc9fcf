"""Cross-checks of the forward's count against fvcore and a formula; a difference is traced to its cause."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from naslab.efficiency import kinds
from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.inputs import Inputs, call_model, tensors_in
from naslab.efficiency.unwrap import eager

TOLERANCE = 0.02
"""Relative difference from which a cause is named."""
_GROUPS = {
    kinds.MATRIX_PRODUCT: ("linear", "addmm", "mm", "matmul", "bmm", "einsum", "baddbmm", "mv"),
    kinds.CONVOLUTION: ("conv",),
}


@dataclass(frozen=True)
class CrossCheck:
    """Another count of the forward, in our convention (a multiply-add is 2).

    `difference` is ours over theirs, less 1. `cause` names what makes a difference above 2 %; where there is no other
    count, `flops` and `difference` are None and `cause` says why.
    """

    source: str
    flops: int | None
    difference: float | None
    cause: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the `profile` document."""
        return dict(vars(self))


def against_formula(counted: FlopCount, flops: int, source: str) -> CrossCheck:
    """Beside a closed formula's FLOPs of the forward."""
    difference = _difference(counted.total, flops)
    cause = None
    if abs(difference) > TOLERANCE:
        largest = max(counted.by_kind, key=lambda kind: counted.by_kind[kind].contraction)
        cause = f"{counted.total:,} counted, {flops:,} by the formula; most of the count is {largest}"
    return CrossCheck(source, flops, difference, cause)


def against_fvcore(model: nn.Module, inputs: Inputs, counted: FlopCount) -> CrossCheck:
    """Beside fvcore, its multiply-adds doubled; its figures for normalisation and the like are left out."""
    if importlib.util.find_spec("fvcore") is None:
        return CrossCheck("fvcore", None, None, "fvcore is not installed: pip install fvcore")
    operators, skipped, problem = _fvcore(model, inputs)
    if problem is not None:
        return CrossCheck("fvcore", None, None, f"fvcore does not run on it: {problem}")
    # Its figures may be numpy's, which JSON has no name for.
    theirs = {kind: 2 * int(sum(operators.get(name, 0) for name in names)) for kind, names in _GROUPS.items()}
    total = sum(theirs.values())
    difference = _difference(counted.total, total)
    cause = _cause(counted, theirs, skipped) if abs(difference) > TOLERANCE else None
    return CrossCheck("fvcore", total, difference, cause)


def _fvcore(model: nn.Module, inputs: Inputs) -> tuple[Mapping[str, int], Mapping[str, int], str | None]:
    tensors = tuple(tensors_in(inputs))
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            analysis = importlib.import_module("fvcore.nn").FlopCountAnalysis
            found = analysis(_Traceable(eager(model), inputs), tensors)
            found.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            return found.by_operator(), found.unsupported_ops(), None
    except Exception as error:  # noqa: BLE001 - tracing fails in as many ways as there are models; ours stands alone
        return {}, {}, str(error).strip().split("\n")[0]


def _cause(counted: FlopCount, theirs: Mapping[str, int], skipped: Mapping[str, int]) -> str:
    ours = {kind: work.contraction for kind, work in counted.by_kind.items() if work.contraction}
    ours[kinds.MATRIX_PRODUCT] = ours.get(kinds.MATRIX_PRODUCT, 0) + ours.pop(kinds.EINSUM, 0)
    ours[kinds.CONVOLUTION] = ours.get(kinds.CONVOLUTION, 0) + ours.pop(kinds.GROUPED_CONVOLUTION, 0)
    gaps = {kind: ours.get(kind, 0) - theirs.get(kind, 0) for kind in (*ours, *theirs)}
    kind = max(gaps, key=lambda name: abs(gaps[name]))
    text = f"{kind}: {ours.get(kind, 0):,} here, {theirs.get(kind, 0):,} there"
    blind = sorted(name for name in skipped if any(mark in name for mark in _CONTRACTING))
    return f"{text}; fvcore has no formula for {', '.join(blind)}" if blind else text


_CONTRACTING = ("attention", "lstm", "gru", "rnn", "transformer_encoder")
"""Marks of operations that multiply, among the many without a formula that do not."""


def _difference(ours: int, theirs: int) -> float:
    return ours / theirs - 1 if theirs else float(bool(ours))


class _Traceable(nn.Module):
    """Takes the tensors of the inputs by position and returns tensors only, as tracing demands."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model.eval()
        self.inputs = inputs

    def forward(self, *tensors: Tensor) -> Any:
        """The model's output tensors."""
        remaining = iter(tensors)
        given = torch.utils._pytree.tree_map_only(Tensor, lambda _: next(remaining), self.inputs)
        outputs = call_model(self.model, given)
        return tuple(t for t in torch.utils._pytree.tree_leaves(outputs) if isinstance(t, Tensor))
