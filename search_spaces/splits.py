"""The three disjoint parts of a data set, by the names that every system uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Split = Literal["validation", "test"]
"""What a model may be scored on: a search looks at `validation`, the final figures come from `test`."""

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""What the parts are called in folders and annotations, in any case."""

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
    """`train`, `validation` or `test`, whatever it is called; None for any other name."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)
