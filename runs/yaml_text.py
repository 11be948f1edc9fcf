"""YAML as people mean it: 1e-3 is a number, a key stands once, and nesting has an end."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.1, with the numbers of YAML 1.2: 1e-3 has no point and is one all the same."""

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


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str) -> Any:
    """The document in `text`.

    Raises:
        yaml.YAMLError: it is no YAML, a key stands twice in one mapping, or it is nested too deep to be read.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deep") from None
