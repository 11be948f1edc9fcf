"""Every option of the language systems: what no study can mean is refused in one line that names the option."""

import math
from typing import get_args

import pytest
from pydantic import ValidationError

from naslab.search_spaces import find_space
from naslab.search_spaces.options import Options, explain

SPACES = ("pmlm", "whole_word", "lmbff", "dysi")
NONSENSE = (-1, math.nan, math.inf, -math.inf, {"no": "such"})
SIZES = ("vocabulary", "context", "length", "layers", "width", "heads", "head_width", "hidden", "source_tokens",
         "target_tokens", "learning_rate", "weight_decay")  # fmt: skip
"""What no machine has room for, or no training survives, when it is a billion."""


def fields(model, path=()):
    for name, field in model.model_fields.items():
        yield model, (*path, name)
        for kind in nested(field.annotation):
            yield from fields(kind, (*path, name))


def nested(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Options):
        yield annotation
    for inner in get_args(annotation):
        yield from nested(inner)


def every_field():
    for name in SPACES:
        space = find_space(name, "tiny")
        for kind, options in (("space.options", type(space).Options), ("task", space.Task.Options)):
            for model, path in fields(options):
                yield pytest.param(model, path[-1], id=f"{name} {'.'.join((kind, *path))}")


def said(model, name, value):
    """What is wrong with a value; other options that stand or fall with it have their say elsewhere."""
    needed = {other: 1 for other, field in model.model_fields.items() if field.is_required()}
    with pytest.raises(ValidationError) as caught:
        model.model_validate({**needed, name: value})
    return explain(caught.value, "here")


@pytest.mark.parametrize(("model", "name"), [*every_field()])
def test_nonsense_is_refused_in_one_line_with_its_place(model, name):
    for value in NONSENSE:
        line = said(model, name, value)
        assert line.startswith(f"here.{name}")
        assert "\n" not in line


@pytest.mark.parametrize(("model", "name"), [p for p in every_field() if p.values[1] in SIZES])
def test_a_slip_of_the_finger_is_refused_before_memory_is_asked_for(model, name):
    assert said(model, name, 10**9).startswith(f"here.{name}: input should be less than or equal to")
