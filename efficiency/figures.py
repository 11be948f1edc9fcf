"""Independent figures: one that fails is missing, with its reason, and the model is restored for the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from naslab.efficiency.state import Checkpoint
from naslab.errors import NaslabError

T = TypeVar("T")


class Figures:
    """Finds figures of what a checkpoint holds, which is put back after each. `missing` has the reasons by name."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.missing: dict[str, str] = {}
        self._checkpoint = checkpoint

    def find(self, name: str, function: Callable[[], T]) -> T | None:
        """The figure, or None where finding it fails."""
        try:
            return function()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a model fails in as many ways as there are models
            self.missing[name] = reason_of(error)
            return None
        finally:
            self._checkpoint.restore()


def reason_of(error: BaseException) -> str:
    """An exception in one line; its kind is named where it is not one of this project's."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, NaslabError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
