"""The three disjoint parts of a data set, by the names that every system uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Split = Literal["validation", "test"]
"""What a model may be scored on: a search looks at `validation`, the final figures come from `test`."""

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
