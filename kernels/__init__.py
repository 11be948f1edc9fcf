"""The hot operations of the spaces, one file each."""

from kernels.mixed_activation import ACTIVATIONS, mixed_activation

__all__ = ["ACTIVATIONS", "mixed_activation"]
