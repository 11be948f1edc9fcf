"""Runs all rules and names every violation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naslab.testing.rules import RULES
from naslab.testing.subject import Broken, Subject, subject

__all__ = ["Broken", "Subject", "check_space", "subject"]


def check_space(
    target: str,
    task: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    samples: int = 4,
) -> None:
    """Hold the space to every rule of the contract; see `subject` for the arguments.

    Raises:
        Broken: the rules that do not hold, one a line, each with what was found.
    """
    chosen = subject(target, task, options, samples)
    broken = []
    for rule in RULES:
        try:
            rule(chosen)
        except Exception as error:  # noqa: BLE001 - whatever a space raises breaks the rule that met it
            found = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
            broken.append(f"  {rule.__name__}: {' '.join(found.split())}")
    if broken:
        raise Broken(f"{target} breaks {len(broken)} of {len(RULES)} rules:\n" + "\n".join(broken))
