"""The batch with which a target is called, from the user's options."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from naslab.errors import InputError


@dataclass(frozen=True)
class Batch:
    """The batch to make: its size and whether the user `asked` for it, the dimension `dim` that holds the samples, and
    the shape of one sample if the user gave one.
    """

    size: int
    shape: tuple[int, ...] | None
    on_meta: bool = False
    dim: int = 0
    asked: bool = False

    def building(self) -> AbstractContextManager[Any]:
        """Where tensors of a model under construction are made."""
        return torch.device("meta") if self.on_meta else nullcontext()

    def like(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Fixed random numbers of `shape` a sample, or of the user's."""
        generator = torch.Generator().manual_seed(0)
        sizes = list(self.shape or shape)
        if not 0 <= self.dim <= len(sizes):
            raise InputError(f"--batch-dim {self.dim}: the input has {len(sizes) + 1} dimensions, counted from 0")
        return torch.randn(*sizes[: self.dim], self.size, *sizes[self.dim :], generator=generator)
