"""Optional packages: if one is missing, one line says how to install it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from naslab.errors import InputError


def check_installed(where: str, extra: str, *packages: str) -> None:
    """Refuse what needs packages that this Python does not have, before anything is started.

    Args:
        where: what asks for them, as the user wrote it.
        extra: of naslab, which installs them.

    Raises:
        InputError: the first that is missing.
    """
    for package in packages:
        if not is_installed(package):
            raise missing(where, extra, package)


@contextmanager
def importing(where: str, extra: str) -> Iterator[None]:
    """Turn an import that fails into the same line: a package may be there without what it needs itself."""
    try:
        yield
    except ImportError as error:
        raise missing(where, extra, error.name or extra) from None


def missing(where: str, extra: str, package: str) -> InputError:
    """What to raise where a package of an extra is not there."""
    return InputError(f"{where}: the Python package {package} is not installed; pip install 'naslab[{extra}]'")


def is_installed(package: str) -> bool:
    """Whether a package could be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # something stands in its way
        return False
