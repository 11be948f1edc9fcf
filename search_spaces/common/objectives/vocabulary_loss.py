"""Cross-entropy of tokens over a vocabulary: Liger's kernel on a GPU where it is installed, else PyTorch's."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.nn import functional as F

from naslab.search_spaces.common.objectives.float32 import in_float32
from naslab.search_spaces.data.text import IGNORED


@cache
def has_liger() -> bool:
    """Whether Liger-Kernel is installed."""
    return importlib.util.find_spec("liger_kernel") is not None


def suits_liger(logits: Tensor, read_again: bool) -> bool:
    """On a GPU, outside of torch.compile, which fuses the plain form, and where nothing else reads the logits.

    Its kernel is no operation of torch, so tensors without numbers, such as those of a forecast, cannot go through it.
    """
    there = logits.is_cuda and not isinstance(logits, FakeTensor)
    return there and not read_again and has_liger() and not torch.compiler.is_compiling()


@in_float32
def vocabulary_loss(
    logits_BLV: Tensor,
    targets_BL: Tensor,
    reduction: Literal["none", "sum", "mean"] = "none",
    read_again: bool = False,
) -> Tensor:
    """Nats of each target, (B, L), 0 where it is IGNORED; or their sum, or the mean over those that are not.

    Liger writes the gradient over the logits in its forward: one matrix of tokens x vocabulary less, but another loss
    of the same logits would read it in their place.

    Args:
        read_again: whether the logits are used otherwise, too.
    """
    cross_entropy: Any = F.cross_entropy
    if suits_liger(logits_BLV, read_again):
        cross_entropy = importlib.import_module("liger_kernel.transformers.functional").liger_cross_entropy
    rows = logits_BLV.flatten(0, -2), targets_BL.flatten()
    loss: Tensor = cross_entropy(*rows, ignore_index=IGNORED, reduction=reduction)
    return loss.view(targets_BL.shape) if reduction == "none" else loss
