"""How long each module takes: its forward with its children, by the host's clock, the device idle at its borders."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter_ns
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from naslab.efficiency.clocks import Prepare, nothing
from naslab.efficiency.device import synchronise

ROUNDS = 10


def measure_module_times(
    call: Callable[[], Any], model: nn.Module, device: torch.device, before: Prepare = nothing
) -> dict[str, float]:
    """Median milliseconds of each module over 10 calls of the model, all calls of the module in one together.

    Watching costs some microseconds at every border, so that a model of many small modules takes longer than its
    latency says: these times are for comparing modules.
    """
    names = {module: name for name, module in model.named_modules()}
    rounds: list[dict[str, float]] = []
    began: list[int] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        synchronise(device)
        began.append(perf_counter_ns())

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        synchronise(device)
        if module in names:
            taken = (perf_counter_ns() - began.pop()) / 1e6
            rounds[-1][names[module]] = rounds[-1].get(names[module], 0.0) + taken
        else:
            began.pop()

    for _ in range(ROUNDS):
        before()
        rounds.append({})
        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
        try:
            call()
        finally:
            for hook in hooks:
                hook.remove()
    return {name: median(taken[name] for taken in rounds if name in taken) for name in rounds[0]}
