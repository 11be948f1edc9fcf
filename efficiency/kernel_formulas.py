"""The formulas of the operations in `kernels`, so that counts cover them: each file states its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from efficiency.formulas import Call, Work, register_formula

altup = importlib.import_module("kernels.altup")


def _altup(backward: bool) -> Callable[[Call], Work]:
    return lambda call: Work(pointwise=altup.flops(*call.shape("x"), backward=backward))


def register_kernels() -> None:
    """Give every operation of `kernels` its formula."""
    register_formula("naslab::altup", _altup(False))
    register_formula("naslab::altup_backward", _altup(True))
