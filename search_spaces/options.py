"""Options: the base of everything that a study file may set, with one-line validation errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from naslab.search_spaces.parameters import When
from naslab.search_spaces.strict_numbers import strict_numbers

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path that may begin with `~`."""
RECORDED = {"recorded": True}
"""Validation context of options that a storage holds: what does not apply is ignored there, as older versions did."""


class Mechanical:
    """Mark of an option that decides how results are worked out, not what they are: `Annotated[int, Mechanical()]`."""


class Network:
    """Mark of an option that names a pre-trained network of transformers: `Annotated[str | None, Network()]`.

    An export keeps the network's configuration, so that its model is rebuilt where the named folder is not.
    """


class Options(BaseModel):
    """Frozen; unknown keys are refused, and so is a key whose condition (`When`, in the field's type) does not hold.

    An option that does not apply keeps its default and is left out where the options are written down. Numbers are
    numbers: no text and no truth value stands for one, each is finite, and integers fit 64 bits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """What pydantic makes of the fields, without the conversions that would hide a slip."""
        schema: CoreSchema = strict_numbers(handler(source))
        return schema

    @classmethod
    def conditions(cls, name: str) -> tuple[When, ...]:
        """What an option's key may stand beside, all of it; none: it always applies."""
        field = cls.model_fields.get(name)
        return tuple(mark for mark in field.metadata if isinstance(mark, When)) if field else ()

    @classmethod
    def applies(cls, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the option has an effect beside `values`; those left out have their defaults."""
        return cls._unmet(name, values) is None

    @classmethod
    def _unmet(cls, name: str, values: Mapping[str, Any]) -> When | None:
        known = {k: field.default for k, field in cls.model_fields.items()} | {**values}
        return next((when for when in cls.conditions(name) if not when.holds(known)), None)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data if isinstance(data, Mapping) else ():
            if key not in known:
                raise PydanticCustomError(
                    "unknown_key", "unknown key; {hint}", {"option": key, "hint": near(key, known)}
                )
        return data

    @model_validator(mode="before")
    @classmethod
    def _of_the_default_kind(cls, data: Any) -> Any:
        """Options of an option that do not say of which kind they are, such as which data, are of the default's."""
        if not isinstance(data, Mapping):
            return data
        found = dict(data)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Options) and isinstance(given := data.get(name), Mapping):
                found[name] = {**field.default._kind(), **given}
        return found

    def _kind(self) -> dict[str, Any]:
        """What was set of the options that decide which others apply."""
        deciding = {when.parameter for name in type(self).model_fields for when in self.conditions(name)}
        return {name: getattr(self, name) for name in self.model_fields_set & deciding}

    @model_validator(mode="after")
    def _nothing_without_effect(self, info: ValidationInfo) -> Self:
        if info.context == RECORDED:
            return self
        for name in self.model_fields_set:
            if (unmet := self._unmet(name, self.__dict__)) is not None:
                raise PydanticCustomError(
                    "without_effect",
                    "applies only with {condition}",
                    {"option": name, "condition": str(unmet)},
                )
        return self

    @model_serializer(mode="wrap")
    def _without_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if self.applies(name, self.__dict__)}


def explain(error: ValidationError, where: str = "") -> str:
    """The first problem of a pydantic error in one line: place, what is wrong, what was given."""
    first = error.errors()[0]
    parts = [str(part) for part in (where, *first["loc"], first.get("ctx", {}).get("option", ""))]
    place = ".".join(part for part in parts if part)
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return f"{place}: {_problem(first)}{more}" if place else f"{_problem(first)}{more}"


def near(given: object, known: Sequence[str]) -> str:
    """The known word that is most like `given`, or else all of them."""
    close = get_close_matches(str(given), known, 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def _problem(first: Mapping[str, Any]) -> str:
    context, text = first.get("ctx", {}), f"{first['msg'][0].lower()}{first['msg'][1:]}"
    match first["type"]:
        case "unknown_key" | "without_effect" | "missing":
            return text
        case "value_error":
            return str(context["error"])
        case "float_type":
            text = "must be a number"
        case "finite_number":
            text = "must be a finite number"
        case "bool_type":
            text = "must be true or false"
        case "string_type":
            text = "must be text"
        case "too_short":
            text = f"must have {context['min_length']} or more values"
        case "tuple_type" | "list_type":
            text = "must be a list, such as [0, 1, 2]"
        case "dict_type" | "model_type" | "model_attributes_type":
            text = "must be a mapping of keys to values"
        case "literal_error":
            known = re.findall(r"'([^']*)'", context["expected"])
            text = f"must be {context['expected']} ({near(first['input'], known)})"
        case "union_tag_not_found":
            text = f"needs {context['discriminator']}"
        case "union_tag_invalid":
            known = re.findall(r"'([^']*)'", context["expected_tags"])
            return f"{context['discriminator']} is {context['tag']!r}; {near(context['tag'], known)}"
    return f"{text}, not {_short(first['input'])}"


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return f"{text[:57]}..." if len(text) > 60 else text
