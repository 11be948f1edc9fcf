"""Suppresses Optuna's messages about created studies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna


@contextmanager
def optuna_warns_only() -> Iterator[None]:
    """Show Optuna's warnings and errors alone for a while; the verbosity that the program chose comes back."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
