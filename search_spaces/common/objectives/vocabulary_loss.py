"""Cross-entropy of each token over a vocabulary: Liger's kernel on a GPU where it is installed, else PyTorch's."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.search_spaces.common.objectives.float32 import in_float32
from naslab.search_spaces.data.text import IGNORED


@cache
def has_liger() -> bool:
    """Whether Liger-Kernel is installed."""
    return importlib.util.find_spec("liger_kernel") is not None


@in_float32
def vocabulary_loss(logits_BLV: Tensor, targets_BL: Tensor, read_again: bool = False) -> Tensor:
    """Nats of each target, (B, L); 0 where it is IGNORED.

    Liger writes the gradient over the logits in its forward: one matrix of tokens x vocabulary less, but another loss
    of the same logits would read it in their place. Inside torch.compile, which fuses the plain form, and on a CPU it
    is not used.

    Args:
        read_again: whether the logits are used otherwise, too.
    """
    logits_NV, targets_N = logits_BLV.flatten(0, -2), targets_BL.flatten()
    if not read_again and logits_NV.is_cuda and has_liger() and not torch.compiler.is_compiling():
        liger: Any = importlib.import_module("liger_kernel.transformers.functional")
        loss: Tensor = liger.liger_cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="none")
    else:
        loss = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="none")
    return loss.view(targets_BL.shape)
