"""YAML as people mean it: 1e-3 is a number, 010 is ten, keys are unique, and a document is plain values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

MOST_VALUES = 100_000
"""More values than any study file has: an alias that holds itself, or aliases of aliases, would never end."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the numbers of YAML 1.2: 1e-3 has no point and is one all the same; no dates, no base 8 or 60."""

    yaml_implicit_resolvers = {
        first: [(tag, found) for tag, found in resolvers if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys differ."""
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"a key is a list or a mapping in line {line}; keys are plain words")
            if key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} stands twice in one mapping, again in line {line}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _number(tag: str, pattern: str, read: Callable[[str], float]) -> None:
    def construct(loader: _Loader, node: yaml.ScalarNode) -> float:
        return read(str(loader.construct_scalar(node)))

    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern, re.ASCII), list("-+.0123456789"))
    _Loader.add_constructor(f"tag:yaml.org,2002:{tag}", construct)


def _integer(text: str) -> int:
    return int(text, 16) if "x" in text else int(text)


def _real(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_number("int", r"^(?:[-+]?\d+(?:_\d+)*|0x[0-9a-fA-F]+)$", _integer)
_number(
    "float", r"^(?:[-+]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", _real
)


def read_yaml(text: str) -> Any:
    """The document in `text`.

    Raises:
        yaml.YAMLError: it is no YAML, a key stands twice in one mapping, it is nested too deep to be read, or holds
            what is neither text nor a number, a truth value, a list or a mapping.
    """
    try:
        document = yaml.load(text, Loader=_Loader)
        _check_plain(document)
    except RecursionError:
        raise yaml.YAMLError("nested too deep") from None
    except (ValueError, KeyError, AttributeError) as error:  # what a tag such as !!bool does not fit
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from None
    return document


def _check_plain(document: Any) -> None:
    """Refuse what is not a tree of plain values."""
    number, todo = 0, [document]
    while todo:
        value, number = todo.pop(), number + 1
        if number > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} values; an alias may hold itself")
        if isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str):
            value.encode()  # half a character is no text
        elif not (value is None or isinstance(value, int | float)):
            raise yaml.YAMLError(f"a {type(value).__name__} is no value of a study file")
