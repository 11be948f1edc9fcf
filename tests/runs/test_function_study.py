"""A function as a study: from a script, from a notebook, and what is said when workers could not find it."""

import ast
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from inline import run_here

import naslab
from naslab.errors import InputError
from naslab.runs.api import Results
from naslab.runs.ledger import Ledger
from naslab.runs.notebook import module_text
from naslab.search_spaces.function import FunctionSpace, load_function

EXAMPLES = Path(__file__).parents[2] / "examples"


def score(lr=0.1, width=16, momentum=0.9, optimiser="sgd", epochs=3, seed=0):
    """Best at 16 wide, and better with every epoch."""
    for epoch in range(1, epochs + 1):
        yield {"accuracy": epoch * (20 - abs(width - 16)) + lr, "test_accuracy": torch.tensor(1.0 + width)}


def once(lr=0.1, width=16):
    return 100.0 * width * lr


SPACE = {"lr": naslab.Float(1e-3, 1, log=True), "width": [8, 16, 32]}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def searched(function, space=SPACE, **options):
    given = {"metric": "accuracy", "trials": 5, "seeds": [0], "random_architectures": 0, **options}
    study = naslab.search(function, space, **given)
    return Results(run_here(Ledger.start("runs.db", study)))


def test_a_function_is_ranked_and_shows_itself_as_a_table():
    results = searched(score)
    assert not [t for t in results.ledger.trials() if t.state != "complete"]
    reference = results.ranking.reference
    assert reference.metric.mean == 17.0, "scores of the test split stand under test_"
    assert {t.scores["validation_accuracy"] for t in results.ledger.trials() if t.job.role == "reference"} == {60.1}
    assert results.best.keys() == {"lr", "width"}
    html, text = results._repr_html_(), str(results)
    assert repr(results) == text, "at a prompt, too"
    assert html.count("<tr>") == len(results.ranking.rows) + 1
    assert all(row.name in text for row in results.ranking.rows)
    assert naslab.rank("score", storage="runs.db").to_dict() == results.ranking.to_dict()
    assert not [t for t in results.ledger.trials() if t.job.role == "profile"], "a function has no model"


def test_a_function_may_return_a_bare_number():
    results = searched(once)
    assert results.ranking.reference.metric.mean == 160.0
    assert {len(t.rungs) for t in results.ledger.trials()} == {1}


def test_a_full_training_ends_at_its_epochs():
    study = naslab.search(score, SPACE, metric="accuracy", trials=1, epochs=2)
    task = study.make_task(torch.device("cpu"))
    model = study.search_space.build(study.search_space.reference)
    assert [rung.epoch for rung in task.train(model, 0)] == [1, 2]
    assert naslab.search(score, SPACE, metric="accuracy", trials=1).make_task(torch.device("cpu")).max_epochs == 3


def odd(lr=0.1, width=16):
    yield {"accuracy": 1.0, **({"epoch": 1.5} if width == 8 else {7: 2.0} if width == 32 else {})}


def test_names_and_epochs_that_are_none_fail_their_trial_in_words():
    results = searched(odd, {"width": [8, 16, 32]}, sampler="grid", trials=3)
    errors = {t.job.configuration["width"]: t.error for t in results.ledger.trials() if t.state == "failed"}
    assert errors == {
        8: "train yielded a rung at epoch 1.5 (float), not a whole number",
        32: "evaluate returned a score named 7 (int); a name is text",
    }


def test_a_parameter_may_depend_on_another():
    space = {"optimiser": ["sgd", "adam"], "momentum": naslab.Float(0.1, 0.99, when=("optimiser", "sgd")), **SPACE}
    study = naslab.search(score, space, metric="accuracy", trials=1)
    assert study.search_space.reference["momentum"] == 0.9
    plain = naslab.search(
        score, space, metric="accuracy", trials=1, reference={"optimiser": "adam", "lr": 0.1, "width": 8}
    )
    assert "momentum" not in plain.search_space.reference


def test_the_study_is_plain_values_that_make_it_again():
    study = naslab.search(score, SPACE, metric="accuracy", trials=3)
    again = naslab.runs.study.parse_study(json.loads(json.dumps(study.document())), "test")
    assert again.digest == study.digest
    assert isinstance(again.search_space, FunctionSpace)
    assert load_function(again.search_space.options.function) is score


def no_defaults(lr, width):
    return 1.0


def needs_data(data, lr=0.1):
    return 1.0


@pytest.mark.parametrize(
    ("function", "space", "options", "message"),
    [
        (score, {"lr": 0.1}, {}, "lr: 0.1 is no range"),
        (score, {}, {}, "space.options.parameters"),
        (no_defaults, SPACE, {}, "reference: lr, width: no value to beat"),
        (score, SPACE, {"reference": {"lr": 5.0, "width": 8}}, "lr: 5.0 is not allowed"),
        (score, SPACE, {"trials": None}, "needs a budget"),
        (lambda lr: lr, SPACE, {}, "workers cannot import it"),
        (score, SPACE, {"sampler": "magic"}, "sampler"),
        (score, {"lr": naslab.Float(0, 1, log=True)}, {}, "lr: a log scale from 0"),
        (score, {"width": naslab.Integer(16, 8)}, {}, "width: no range from 16 to 8"),
        (score, {"width": naslab.Integer(8, 64, step=8, log=True)}, {}, "width: steps of 8 on a log scale"),
        (score, {"width": [16, 16]}, {}, "width: the choice 16 stands twice"),
        (score, {"width": [1, True, 16]}, {}, "width: the choice True stands twice"),
        (score, {"optimiser": [None, "sgd"]}, {}, "optimiser: None is no choice"),
        (score, {"width": [[8, 8], [16]]}, {}, "width: [8, 8] is no choice"),
        (
            score,
            {"lr": naslab.Float(0, 1, when=("optimizer", "sgd"))},
            {},
            "no parameter before it is called 'optimizer'",
        ),
        (
            score,
            {"optimiser": ["sgd", "adam"], "lr": naslab.Float(0, 1, when=("optimiser", "sdg"))},
            {},
            "lr: applies only with optimiser = sdg, but optimiser is one of sgd, adam",
        ),
        (score, {"width": [8, 32]}, {}, "its reference: width: 16 is not allowed"),
        (needs_data, {"lr": [0.1, 1.0]}, {}, "data: needs_data needs a value for it"),
        (no_defaults, {"lr": [0.1], "width": naslab.Integer(1, 2, when=("lr", 0.1))}, {}, "width: no_defaults needs"),
        (score, SPACE, {"arms": []}, "arms: each has its own trials"),
        (score, SPACE, {"epochs": 2, "task": {"epochs": 3}}, "task: give epochs there"),
        (score, SPACE, {"metric": "test_accuracy"}, "metric: 'test_accuracy' is a score of the test split"),
    ],
)
def test_what_cannot_be_searched_is_one_line(function, space, options, message):
    with pytest.raises(InputError) as caught:
        naslab.search(function, space, **{"metric": "accuracy", "trials": 3, **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: naslab.Integer(1, 8, step=0), "Integer.step"),
        (lambda: naslab.Integer(1.5, 8), "Integer.low: must be an integer"),
        (lambda: naslab.Float(0, float("inf")), "Float.high: must be a finite number"),
    ],
)
def test_a_range_that_is_none_is_one_line(made, message):
    with pytest.raises(InputError, match=message):
        made()


def test_choices_of_numpy_are_plain_numbers():
    study = naslab.search(score, {"width": list(np.array([8, 16]))}, metric="accuracy", trials=1)
    (width,) = study.search_space.parameters
    assert [type(choice) for choice in width.choices] == [int, int]


def notebook(monkeypatch, text):
    """Names of a notebook's `__main__` after `text` ran in it; as IPython does, its lines are known."""
    import linecache

    main = types.ModuleType("__main__")
    main.get_ipython = lambda: None
    main.In = ["", text]
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(sys.modules, "__mp_main__", main)  # as multiprocessing does
    linecache.cache["<ipython-input-1>"] = (len(text), None, text.splitlines(keepends=True), "<ipython-input-1>")
    exec(compile(text, "<ipython-input-1>", "exec"), main.__dict__)
    return main


CELL = """
import math as maths
from collections import Counter
STEPS = {"a": [1, 2]}
big = open
class Model:
    def __init__(self, width):
        self.width = width
    def score(self):
        return maths.sqrt(self.width) + len(STEPS["a"])
def helper(width: int) -> float:
    return helper(width - 1) if width > 64 else Model(width).score()
def train(lr=0.1, width=16, scale=STEPS["a"][1]):
    big = Counter()
    yield {"accuracy": scale * helper(width) + big[0]}
def broken(lr=0.1, width=16):
    return stream.read()
"""


def test_a_function_of_a_notebook_is_written_down_with_what_it_needs(monkeypatch):
    main = notebook(monkeypatch, CELL)
    study = naslab.search(main.train, SPACE, metric="accuracy", trials=2, name="mine")
    path, _, name = study.search_space.options.function.rpartition(":")
    defined = {n.name for n in ast.parse(Path(path).read_text()).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert defined == {"Model", "helper", "train"}
    there = load_function(f"{path}:{name}")
    assert list(there(width=25)) == list(main.train(width=25)) == [{"accuracy": 14.0}]


CLASSES = """
import math
from ast import NodeVisitor
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import NamedTuple
class Settings:
    scale = 2
Same = Settings
@dataclass
class Data:
    size: int = Settings.scale
class Mode(Enum):
    A = "a"
class Pair(NamedTuple):
    one: int
class Sub(Data):
    pass
class Lazy:
    @property
    def one(self):
        return 1
@cache
def load(n=3):
    return n
again = load
worst = -float("inf")
visit = NodeVisitor.visit
def train(lr=0.1, width=16):
    assert Mode("a") is Mode.A and visit and 0 > worst
    return width * Pair(1).one * Lazy().one * again() + Sub().size + Same.scale
"""


def test_classes_and_functions_of_a_notebook_may_be_made_in_any_way(monkeypatch):
    main = notebook(monkeypatch, CLASSES)
    study = naslab.search(main.train, SPACE, metric="accuracy", trials=2, name="classes")
    assert load_function(study.search_space.options.function)() == main.train() == 52


def test_a_class_of_a_notebook_is_as_it_was_defined_last(monkeypatch):
    main = notebook(monkeypatch, "class A:\n    size = 2\ndef train(width=8):\n    return A.size\n")
    main.In.extend(["%%time\nclass A:\n    size = 5\n", "class A:\n    size = 3\n"])
    exec(main.In[-1], main.__dict__)
    study = naslab.search(main.train, {"width": [8, 16]}, metric="accuracy", trials=2, name="last")
    assert load_function(study.search_space.options.function)() == main.train() == 3


def test_annotations_that_a_notebook_never_evaluates_are_not_evaluated_by_workers(monkeypatch):
    text = "from __future__ import annotations\ndef train(width: Nowhere = 8) -> Nothing:\n    return width\n"
    main = notebook(monkeypatch, text)
    study = naslab.search(main.train, {"width": [8, 16]}, metric="accuracy", trials=2, name="lazy")
    assert load_function(study.search_space.options.function)() == 8


def test_a_notebook_value_that_cannot_be_written_down_is_named(monkeypatch):
    main = notebook(monkeypatch, CELL)
    main.stream = open(EXAMPLES / "function.py")  # noqa: SIM115
    with main.stream, pytest.raises(InputError, match="stream: the function refers to it, and a TextIOWrapper"):
        module_text(main.broken)


def test_what_a_notebook_imports_is_imported_by_workers_whatever_it_is(monkeypatch):
    text = """
from math import sqrt, inf, pi
from numpy import exp as e
from torch import relu, float64 as precise
from operator import itemgetter
import os.path as paths
lowest = -1e3
first = itemgetter
def train(lr=0.1, width=16):
    best = max(lowest, -inf, sqrt(width) + e(0.0) + pi)
    chosen = best if width else relu(first(0))
    return float(chosen) + (precise.itemsize if paths.sep else 0)
"""
    main = notebook(monkeypatch, text)
    study = naslab.search(main.train, SPACE, metric="accuracy", trials=2, name="imports")
    there = load_function(study.search_space.options.function)
    assert there is not main.train
    assert there(width=25) == main.train(width=25) == 5 + 1 + 3.141592653589793 + 8


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(text)
    return subprocess.run([sys.executable, path], capture_output=True, text=True, cwd=tmp_path, timeout=300)


SCRIPT = """
import naslab

def train(lr=0.1, width=16):
    yield {"accuracy": lr * width}

def main():
    study = naslab.search(train, {"lr": naslab.Float(0.01, 1)}, metric="accuracy", trials=2, seeds=[0],
                          random_architectures=0)
    print(naslab.run(study, workers=1, quiet=True).best["lr"])
"""


def test_a_script_finds_its_function_and_an_unguarded_one_is_told(tmp_path):
    unguarded = script(tmp_path, SCRIPT + "\nmain()\n")
    assert unguarded.returncode != 0
    assert "script.py, line 12: workers import this file" in unguarded.stderr.splitlines()[-1]
    guarded = script(tmp_path, SCRIPT + '\nif __name__ == "__main__":\n    main()\n')
    assert guarded.returncode == 0, guarded.stderr
    assert 0.01 <= float(guarded.stdout) <= 1


def test_import_naslab_loads_neither_torch_nor_pandas():
    code = "import sys, naslab; print([m for m in ('torch', 'pandas', 'optuna', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
