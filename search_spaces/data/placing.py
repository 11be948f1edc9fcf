"""Where tensors lie: constants that stay on a device, and batches that are sent to it without a wait."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def constant(values: Any, device: torch.device) -> Tensor:
    """A tensor of these numbers, a tuple or tuples of such, sent to the device once; nobody may change it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. A GPU fetches it from pinned memory while the host goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def sent_batch(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """All tensors of a batch on `device`."""
    return {name: sent(tensor, device) for name, tensor in batch.items()}
