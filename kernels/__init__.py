"""The hot operations of the spaces, one file each."""

from kernels.altup import altup
from kernels.contrastive import info_nce, nt_xent
from kernels.mixed_activation import ACTIVATIONS, Mixed, mixed_activation
from kernels.negative_cosine import negative_cosine
from kernels.patch_loss import patch_loss
from kernels.token_mask import TokenMask, gather_visible, restore_tokens, token_mask

__all__ = [
    "ACTIVATIONS",
    "Mixed",
    "TokenMask",
    "altup",
    "gather_visible",
    "info_nce",
    "mixed_activation",
    "negative_cosine",
    "nt_xent",
    "patch_loss",
    "restore_tokens",
    "token_mask",
]
