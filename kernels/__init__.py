"""The hot operations of the spaces, one file each."""

from kernels.altup import altup
from kernels.mixed_activation import ACTIVATIONS, Mixed, mixed_activation
from kernels.patch_loss import patch_loss

__all__ = ["ACTIVATIONS", "Mixed", "altup", "mixed_activation", "patch_loss"]
