"""Every option of the shipped spaces and tasks that applies changes something at some other value."""

import pytest
from test_contract import EXAMPLES, made

from naslab.testing.effects import space_options_have_an_effect, task_options_have_an_effect

TASKS = [
    "digits_mlp:Space",
    "nasiam:tiny",
    "mae:tiny",
    "token_reduction:tiny",
    "altup:tiny",
    "smaug:tiny",
    "pmlm:tiny",
    "whole_word:tiny",
    "dysi:tiny",
    "lmbff:tiny",
]
FORMS = ["nasiam:tiny byol", "nasiam:tiny mocov2"]
"""Of the same tasks, with options of the space that apply to them alone."""


@pytest.mark.parametrize("name", [*TASKS, *FORMS])
def test_options_of_the_space(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    space_options_have_an_effect(made(name))


@pytest.mark.parametrize("name", TASKS)
def test_options_of_the_task(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    task_options_have_an_effect(made(name))
