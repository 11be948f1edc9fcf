"""The three disjoint parts of a data set, by the names that every system uses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from naslab.errors import InputError

Split = Literal["validation", "test"]
"""What a model may be scored on: a search looks at `validation`, the final figures come from `test`."""

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""What the parts are called in folders and annotations, in any case."""

AROUND = re.compile(r"[\W_]*(set|split|data|images?|imgs?|videos?|clips?|frames)?[\W_\d]*$")
"""What may follow such a name."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Splits(Generic[Part]):
    """Training, validation and test part."""

    train: Part
    validation: Part
    test: Part

    def of(self, split: Literal["train", "validation", "test"]) -> Part:
        """The part called `split`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


def split_called(name: str) -> str | None:
    """`train`, `validation` or `test` by any of its names (`Val`, `train2017`, `test_set`); None for another name."""
    bare = AROUND.sub("", name.lower())
    return next((split for split, names in SPLIT_NAMES.items() if bare in names), None)


def by_split(paths: Iterable[Path]) -> dict[str, Path]:
    """The files or folders that are called as splits are, by the split.

    Raises:
        InputError: two of them for one split.
    """
    found: dict[str, Path] = {}
    for path in paths:
        split = split_called(path.name if path.is_dir() else path.stem)
        if split is None:
            continue
        if split in found:
            both = " and ".join(f"{one.name}{'/' if one.is_dir() else ''}" for one in (found[split], path))
            raise InputError(f"{path.parent}: both {both} are called {split}; keep one")
        found[split] = path
    return found
