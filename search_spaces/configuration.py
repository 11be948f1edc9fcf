"""Configuration: one immutable, validated point of a search space. A genotype is a Configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from naslab.search_spaces.parameters import Value


@dataclass(frozen=True)
class Configuration(Mapping[str, Value]):
    """A point of the space named `space`; `items_` are its active parameters in the space's order.

    Made by `SearchSpace.configuration`, which validates and canonicalises, so that two configurations that
    build the same function are equal, print the same and have the same `digest`.
    """

    space: str
    items_: tuple[tuple[str, Value], ...]

    def __getitem__(self, name: str) -> Value:
        """Value of an active parameter."""
        for key, value in self.items_:
            if key == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """Names of the active parameters, in the space's order."""
        return (key for key, _ in self.items_)

    def __len__(self) -> int:
        """Number of active parameters."""
        return len(self.items_)

    def chain(self, name: str) -> tuple[str, ...]:
        """The operations of a searched cell.

        Raises:
            TypeError: `name` is not a chain.
        """
        value = self[name]
        if not isinstance(value, tuple):
            raise TypeError(f"{name} is {value!r}, not a chain of operations")
        return value

    def as_dict(self) -> dict[str, object]:
        """Plain values with lists for chains, ready for JSON or YAML."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.items_}

    @property
    def canonical(self) -> str:
        """The one text form: JSON, sorted keys, no spaces."""
        return json.dumps({"space": self.space, **self.as_dict()}, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """First twelve hexadecimal digits of the SHA-256 of the canonical form."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        """The readable form, one line a parameter, chains as flow lists."""
        lines = [f"space: {self.space}"]
        for key, value in self.as_dict().items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
            lines.append(f"{key}: {text}")
        return "\n".join(lines) + "\n"

    def __hash__(self) -> int:
        """Hash of the canonical form."""
        return hash(self.canonical)

    def __str__(self) -> str:
        """Short form for tables."""
        parts = [f"{k}={'·'.join(v) if isinstance(v, tuple) else v}" for k, v in self.items_]
        return " ".join(parts)
