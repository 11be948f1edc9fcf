"""Libraries of C++ loops: compiled once per machine, stored in the cache folder, verified before loading.

A library runs whatever it holds, so only a whole file is loaded, and only one that nobody else can have written. Its
name tells both: KEY-USER-HASH.so, where the key is made of all that goes in, and the hash of what came out.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from naslab.kernels._cache import cache_folder, replace_file, user_id

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).resolve().parent
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
OPTIONAL_FLAGS = (("-march=native", "-fopenmp", "-mprefer-vector-width=512"), ("-march=native", "-fopenmp"), ())
"""Tried in this order: some compilers know no -march=native, some have no OpenMP."""


def build(source: str) -> ctypes.CDLL:
    """The library of a source of this folder, from the cache or made now.

    Raises:
        OSError: no compiler, or it failed, or the library does not load.
        subprocess.SubprocessError: the compiler takes minutes.
        ValueError: `$CXX` is no command.
    """
    compiler = _compiler()
    key = _key(source, compiler)
    folder = cache_folder() / "native"
    for path in _candidates(folder, key):
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:  # made where the system's libraries are newer, by another node of a cluster
            logger.info("%s does not load, it is compiled again: %s", path, error)
    return _load(folder, key, _compile(compiler, SOURCES / source))


def _compiler() -> list[str]:
    """The words of `$CXX` (`ccache g++` is two), else what the machine has."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    found = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if not chosen and found is None:
        raise OSError("no C++ compiler (c++, g++, clang++) is on PATH; $CXX names one")
    return chosen or [str(found)]


def _key(source: str, compiler: list[str]) -> str:
    text = (SOURCES / "_loops.h").read_bytes() + (SOURCES / source).read_bytes()
    made_with = "\n".join((*compiler, *FLAGS, *_more_flags(), instruction_set())).encode()
    return hashlib.sha256(text + made_with).hexdigest()[:24]


def _candidates(folder: Path, key: str) -> Iterator[Path]:
    """Libraries of this key that are whole and cannot be another user's, one's own first."""
    try:
        found = sorted(folder.glob(f"{key}-*-*.so"), key=lambda path: f"-{user_id()}-" not in path.name)
    except OSError:
        return
    for path in found:
        try:
            if _trusted(path) and _digest(path.read_bytes()) == path.stem.rpartition("-")[2]:
                yield path
        except OSError:
            continue


def _trusted(path: Path) -> bool:
    """Written by this user or by root, or in a folder where only its owner writes: the cache that was chosen."""
    file, folder = path.lstat(), path.parent.stat()
    if not stat.S_ISREG(file.st_mode) or file.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if file.st_uid in (user_id(), 0):
        return True
    return file.st_uid == folder.st_uid and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _load(folder: Path, key: str, library: bytes) -> ctypes.CDLL:
    """Keep a library and load it; where the cache cannot be written, load it from a folder that goes away."""
    path = folder / f"{key}-{user_id()}-{_digest(library)}.so"
    try:
        replace_file(path, library)
    except OSError as error:
        logger.info("the compiled loops are not kept: %s", error)
    else:
        return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory() as private:
        passing = Path(private, path.name)
        passing.write_bytes(library)
        return ctypes.CDLL(str(passing))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _compile(compiler: list[str], source: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "loops.so")
        for optional in OPTIONAL_FLAGS:
            command = [*compiler, *FLAGS, *optional, *_more_flags(), str(source), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                return made.read_bytes()
        raise OSError(f"{shlex.join(compiler)} failed: {' '.join(done.stderr.split())[-300:]}")


def _more_flags() -> list[str]:
    """`$NASLAB_CXXFLAGS`: warnings as errors in the tests, sanitizers in `make sanitize`."""
    return shlex.split(os.environ.get("NASLAB_CXXFLAGS", ""))


@cache
def instruction_set() -> str:
    """Of this processor: a cache folder may be shared by the nodes of a cluster."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
