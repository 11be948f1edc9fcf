"""Output: one JSON document or a table to standard output, everything else to standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from rich.console import Console

out = Console()
err = Console(stderr=True)


def show_any_letter() -> None:
    """Show letters that standard output's encoding lacks by their numbers; Python would raise at the first of them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_json(document: dict[str, Any]) -> None:
    """Print exactly one JSON document and nothing else."""
    print_whole(json.dumps(document, indent=2, allow_nan=False, default=str) + "\n")


def print_whole(text: str) -> None:
    """Hand standard output a whole answer at once: a file that it goes to is empty until then, and never half of it."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def models_text_aside() -> Iterator[None]:
    """What a user's model prints goes to standard error, from Python or below it, so that standard output holds the
    command's own answer alone.
    """
    sys.stdout.flush()
    try:
        number, aside = sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):  # replaced by something that is no file
        with redirect_stdout(sys.stderr):
            yield
        return
    kept = os.dup(number)
    os.dup2(aside, number)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def end_of_output() -> None:
    """The command's answer is complete: what a user's code or its libraries still print as the process ends, from
    handlers or from buffers below Python, goes to standard error.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def significant_digits(number: float, digits: int = 3) -> str:
    """`number` with so many significant digits, never in scientific notation between 1e-4 and 1e6."""
    if number == 0 or not 1e-4 <= abs(number) < 1e6:
        return f"{number:.{digits}g}"
    decimals = max(0, digits - 1 - int(f"{abs(number):e}".split("e")[1]))
    return f"{number:,.{decimals}f}"
