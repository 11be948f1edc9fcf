"""Seeds: one derived from what a draw belongs to, and the global generators set to it."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed that depends on every part: trial i's from (study seed, arm, i), and so on."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def seed_everything(seed: int) -> None:
    """Seed torch (all devices) and numpy's legacy generator, which third-party layers draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
