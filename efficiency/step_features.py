"""The features that predict a step's time: seconds at the device's ceilings, and numbers of operations and modules.

Work alone does not explain small steps. Each convolution sets up a primitive and may reorder its weights, each product
is handed to a library, every other operation is dispatched, and each module is entered in Python; all of these cost the
same however little is computed.
"""

from __future__ import annotations

from naslab.efficiency import kinds
from naslab.efficiency.flop_count import FlopCount, Operation
from naslab.efficiency.roofline import Roof

MODULE_CALLS = "module calls"
BACKWARD = ", backward"


_PRODUCTS = {
    kinds.MATRIX_PRODUCT: 1.3,
    kinds.CONVOLUTION: 1.3,
    kinds.GROUPED_CONVOLUTION: 2.0,
    kinds.ATTENTION: 2.0,
    kinds.RECURRENT: 2.0,
}
"""Seconds at the device's peak, by kind; a product of any other kind is taken for a matrix product."""
_MEMORY = {"memory traffic": 1.0}
"""Seconds at the device's bandwidth."""
_BEGUN = {"convolutions begun": 30e-6, "products begun": 10e-6, "others begun": 2e-6}
"""Numbers of operations; their factors are seconds of each."""
USUAL: dict[str, float] = {
    **{f"{name}{end}": usual for end in ("", BACKWARD) for name, usual in {**_PRODUCTS, **_MEMORY, **_BEGUN}.items()},
    MODULE_CALLS: 8e-6,
}
"""Every feature, with what its factor usually is."""
SPREAD = 0.5
"""Standard deviation of the logarithm of a factor over devices."""
FEATURES = tuple(USUAL)


def features(counted: FlopCount, roof: Roof) -> dict[str, float]:
    """The features of a counted step.

    Raises:
        InputError: no ceiling is known for the number format of part of the work.
    """
    sums = dict.fromkeys(FEATURES, 0.0)
    for operation in counted.operations:
        phase = BACKWARD if operation.phase == "backward" else ""
        if operation.work.contraction:
            name = operation.kind if operation.kind in _PRODUCTS else kinds.MATRIX_PRODUCT
            sums[f"{name}{phase}"] += roof.compute_seconds(operation)
        sums[f"memory traffic{phase}"] += operation.bytes_moved / roof.bytes_per_second
        sums[f"{_begun(operation)}{phase}"] += 1
    sums[MODULE_CALLS] = float(_module_calls(counted))
    return sums


def _begun(operation: Operation) -> str:
    if not operation.work.contraction:
        return "others begun"
    convolutions = (kinds.CONVOLUTION, kinds.GROUPED_CONVOLUTION)
    return "convolutions begun" if operation.kind in convolutions else "products begun"


def _module_calls(counted: FlopCount) -> int:
    """How often the forward pass enters a module, as far as its operations show: where one runs for other modules than
    the one before, those that they do not share were entered.
    """
    calls = 0
    before: tuple[str, ...] = ()
    for operation in counted.operations:
        if operation.phase == "forward":
            calls += len(operation.modules) - _shared(before, operation.modules)
            before = operation.modules
    return calls


def _shared(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many names both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
