"""Configuration: one immutable, validated point of a search space. A genotype is a Configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from naslab.search_spaces.parameters import Value


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


D = TypeVar("D", bound=_Dataclass)


def into(values: Mapping[str, Value], kind: type[D]) -> D:
    """Validated values as a `kind`: a dataclass with a typed field for every parameter that may be active.

    A parameter that does not apply is absent, and its field takes its default.

    Raises:
        TypeError: a parameter without a field, a field without value and default, or a value of another type than its
            field: the dataclass does not describe the space.
    """
    names = {field.name for field in fields(kind)}
    if strangers := values.keys() - names:
        raise TypeError(f"{kind.__name__} has no field for {', '.join(sorted(strangers))}; it has {', '.join(names)}")
    try:
        return kind(**{name: _field(kind, name).validate_python(value, strict=True) for name, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        raise TypeError(f"a field of {kind.__name__}: {first['msg']}, not {first['input']!r}") from None


@cache
def _field(kind: type[Any], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(kind)[name])


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

    def into(self, kind: type[D]) -> D:
        """The values as a dataclass; see `into`."""
        return into(self, kind)

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

    @cached_property
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
