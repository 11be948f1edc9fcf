"""C++ loops for the CPU: compiled once per machine in a fraction of a second, stored in the user's cache folder.

`torch.compile` would give the same loops, but takes 20 seconds the first time and 3 in every further process, which a
study would be charged. Where they cannot be built the operations fall back to their references. The sources stand
beside the operations: `altup.cpp` has the loops of `altup.py`.
"""

from __future__ import annotations

import ctypes
import logging
import subprocess
from functools import cache

import torch
from torch import Tensor

from naslab.kernels._build import build
from naslab.kernels._compiling import compiling

logger = logging.getLogger(__name__)


@cache
def library(source: str) -> ctypes.CDLL | None:
    """The compiled loops of a source of this folder, such as `altup.cpp`; None where they cannot be built."""
    try:
        with compiling():
            return build(source)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _warn_once(str(error))
        return None


@cache
def _warn_once(reason: str) -> None:
    logger.warning("operations on the CPU use plain PyTorch, which is slower: their C++ loops do not build: %s", reason)


def call(source: str, function: str, *arguments: Tensor | int | float) -> None:
    """Call a function of the compiled source: tensors as pointers, int as int64_t, float as double.

    The last argument of every function is the number of threads, which is torch's.
    """
    loops = library(source)
    assert loops is not None
    loops[function](*map(_c_value, arguments), ctypes.c_int64(torch.get_num_threads()))


def _c_value(value: Tensor | int | float) -> ctypes._SimpleCData[int] | ctypes._SimpleCData[float] | ctypes.c_void_p:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)
