"""The hot operations of the spaces, one file each."""

from kernels.altup import altup
from kernels.mixed_activation import ACTIVATIONS, Mixed, mixed_activation
from kernels.patch_loss import patch_loss
from kernels.token_mask import TokenMask, gather_visible, restore_tokens, token_mask

__all__ = [
    "ACTIVATIONS",
    "Mixed",
    "TokenMask",
    "altup",
    "gather_visible",
    "mixed_activation",
    "patch_loss",
    "restore_tokens",
    "token_mask",
]
