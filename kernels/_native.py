"""Loops in C++ for the CPU: compiled once per machine in a fraction of a second, kept in the user's cache folder.

`torch.compile` would give the same loops, but takes 20 seconds the first time and 3 in every further process, which a
study would be charged. Where there is no compiler the operations fall back to their references.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from naslab.kernels._cache import cache_folder, replace_file

logger = logging.getLogger(__name__)

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
OPTIONAL_FLAGS = (("-march=native", "-fopenmp", "-mprefer-vector-width=512"), ("-march=native", "-fopenmp"), ())
"""Tried in this order: some compilers know no -march=native, some have no OpenMP."""

PRELUDE = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
// exp to about one unit in the last place; unlike the library's, compilers turn it into vector code.
static inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691e-4f;
  p = p * r + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666666e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}
// Sixteen sums side by side: in one, no compiler may reorder the additions, so none makes vector code of it.
static inline float dot(const float* a, const float* b, int64_t n) {
  float lanes[16] = {0};
  int64_t d = 0;
  for (; d + 16 <= n; d += 16)
    for (int l = 0; l < 16; ++l) lanes[l] += a[d + l] * b[d + l];
  float total = 0;
  for (int l = 0; l < 16; ++l) total += lanes[l];
  for (; d < n; ++d) total += a[d] * b[d];
  return total;
}
"""


@cache
def library(source: str) -> ctypes.CDLL | None:
    """The compiled loops, from the cache folder or made now; None where no compiler makes them."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        logger.info("no C++ compiler: CPU operations use their PyTorch references")
        return None
    text = PRELUDE + source
    key = hashlib.sha256("\n".join((text, compiler, *FLAGS, _machine())).encode()).hexdigest()[:24]
    path = cache_folder() / "native" / f"{key}.so"
    try:
        if not path.exists():
            replace_file(path, _compile(compiler, text))
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("CPU operations use their PyTorch references, the C++ loops do not load: %s", error)
        return None


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


def _compile(compiler: str, text: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "loops.cpp"), Path(folder, "loops.so")
        source.write_text(text, encoding="utf-8")
        for optional in OPTIONAL_FLAGS:
            command = [compiler, *FLAGS, *optional, str(source), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                return made.read_bytes()
        raise OSError(f"{compiler} failed: {done.stderr.strip().splitlines()[-1:]}")


@cache
def _machine() -> str:
    """Instruction set of this processor: a cache folder may be shared by the nodes of a cluster."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
