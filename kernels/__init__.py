"""The hot operations of the spaces, one file each."""

from kernels.altup import altup
from kernels.mixed_activation import ACTIVATIONS, mixed_activation

__all__ = ["ACTIVATIONS", "altup", "mixed_activation"]
