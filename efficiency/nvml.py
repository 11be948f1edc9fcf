"""NVML, NVIDIA's GPU management library: the handle of a device, and single queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def device_handle(nvml: Any, device: torch.device) -> Any:
    """NVML's handle of torch's device; of a part of a GPU (MIG), that of the whole, which has the clocks and counters.

    Args:
        nvml: the module pynvml, initialised.

    Raises:
        nvml.NVMLError: the driver does not know the device.
    """
    # By UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices but not the driver's.
    uuid = torch.cuda.get_device_properties(device).uuid
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError:
        part = nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)


def answers(nvml: Any, questions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What each question gives; one that this GPU or driver has no answer to is None."""
    found = {}
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except nvml.NVMLError:
            found[name] = None
    return found
