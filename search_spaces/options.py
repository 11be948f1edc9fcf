"""Options: the base of everything that a study file may set, and one-line words for what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from naslab.search_spaces.parameters import When

RECORDED = {"recorded": True}
"""Validation context of options that a storage holds: what does not apply is ignored there, as older versions did."""


class Options(BaseModel):
    """Frozen; unknown keys are refused, and so is a key whose condition (`When`, in the field's type) does not hold.

    An option that does not apply keeps its default and is left out where the options are written down.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def condition(cls, name: str) -> When | None:
        """What an option's key may stand beside; None: it always applies."""
        field = cls.model_fields.get(name)
        return next((mark for mark in field.metadata if isinstance(mark, When)), None) if field else None

    @classmethod
    def applies(cls, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the option has an effect beside `values`; those left out have their defaults."""
        when = cls.condition(name)
        return when is None or when.holds({k: field.default for k, field in cls.model_fields.items()} | {**values})

    @model_validator(mode="after")
    def _nothing_without_effect(self, info: ValidationInfo) -> Self:
        if info.context == RECORDED:
            return self
        for name in self.model_fields_set:
            if not self.applies(name, self.__dict__):
                raise PydanticCustomError(
                    "without_effect",
                    "applies only with {condition}",
                    {"option": name, "condition": str(self.condition(name))},
                )
        return self

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if self.applies(name, self.__dict__)}


def explain(error: ValidationError, where: str = "") -> str:
    """The first problem of a pydantic error in one line: place, what is wrong, what was given."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in (where, *first["loc"], first.get("ctx", {}).get("option", "")) if part != "")
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key{more}"
    if first["type"] == "without_effect":
        return f"{place}: {first['msg']}{more}"
    given = "" if first["type"] == "missing" else f", not {first['input']!r}"
    return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}{given}{more}"
