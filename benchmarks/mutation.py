"""How many small faults in the code that decides do the tests notice? One fault at a time, in a fork that imports it.

python benchmarks/mutation.py --name ranking --modules runs/ranking.py runs/rows.py --tests tests/runs/test_ranking.py
Third-party packages are imported once; each fork imports naslab anew with one module changed, and ends at the first
failing test. A fault that hangs counts as noticed. Faults: a comparison, an operator, a condition, a number or a truth
value is another one. `strict=` and `frozen=` are left alone: they only guard against mistakes in code to come.
The faults stand in one random order: --sample 60 takes the first 60, --skip 60 leaves out those that tests were written
against, and --again tries what survived once more, by other tests. mutation_equal.json names what changes no behaviour.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import json
import os
import random
import re
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
EQUAL = ROOT / "benchmarks" / "mutation_equal.json"
GUARDS = ("strict", "frozen")
PRELOADED = ("torch", "torchvision", "timm", "transformers", "optuna", "pandas", "plotly.graph_objects", "scipy.stats")
SWAPS: dict[type[Any], type[Any]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


Work = tuple[str, Path, ast.Module, int]
"""A module by name and path, its tree, and the number of the fault."""


class Fault(ast.NodeTransformer):
    """Changes the `wanted`-th place where a fault is possible; afterwards `seen` is the number of such places."""

    def __init__(self, wanted: int, source: Sequence[str]) -> None:
        self.wanted, self.source, self.seen, self.said = wanted, source, 0, ""

    def _here(self, node: Any, what: str) -> bool:
        self.seen += 1
        if self.seen - 1 != self.wanted:
            return False
        text = self.source[node.lineno - 1]
        column = len(text[: node.col_offset].lstrip())
        self.said = f"line {node.lineno}: {what} in {ast.unparse(node)[:90]} (column {column} of: {text.strip()})"
        return True

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        for index, operator in enumerate(node.ops):
            if type(operator) in SWAPS and self._here(node, type(operator).__name__):
                node.ops[index] = SWAPS[type(operator)]()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if type(node.op) in SWAPS and self._here(node, type(node.op).__name__):
            node.op = SWAPS[type(node.op)]()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if self._here(node, type(node.op).__name__):
            node.op = SWAPS[type(node.op)]()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not | ast.USub) and self._here(node, type(node.op).__name__):
            return node.operand
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        if self._here(node, "condition"):
            node.test = ast.UnaryOp(ast.Not(), node.test)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return node
        self.generic_visit(node)
        if self._here(node.test, "condition"):
            node.test = ast.UnaryOp(ast.Not(), node.test)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            return ast.copy_location(ast.Constant(not node.value), node) if self._here(node, "truth") else node
        if isinstance(node.value, int | float) and self._here(node, "number"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        return node if node.arg in GUARDS else self.generic_visit(node)


def run_fault(module: Path, tree: ast.Module, index: int, tests: list[str], limit: float) -> tuple[str, str]:
    """("killed", "survived" or "hung", and what was changed)."""
    fault = Fault(index, lines_of(module))
    changed = ast.fix_missing_locations(fault.visit(copy.deepcopy(tree)))
    child = os.fork()
    if child == 0:
        os._exit(_run_tests(module, changed, tests))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return ("survived" if status == 0 else "killed"), fault.said
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hung", fault.said


def _run_tests(module: Path | None, changed: ast.Module | None, tests: list[str]) -> int:
    original = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, name: str) -> Any:
        if module is not None and changed is not None and Path(self.path).resolve() == module:
            return compile(changed, self.path, "exec", dont_inherit=True)
        return original(self, name)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def check_sound(tests: list[str]) -> None:
    """Refuse tests that fail without any fault."""
    child = os.fork()
    if child == 0:
        os._exit(_run_tests(None, None, tests))
    assert os.waitpid(child, 0)[1] == 0, "the tests fail without any fault"


def faults_in(names: list[str], skip: int, sample: int | None) -> list[Work]:
    """`sample` of the places where a fault is possible, after the first `skip` of one random order."""
    work: list[Work] = []
    for name in names:
        module = (ROOT / name).resolve()
        tree = ast.parse("\n".join(lines_of(module)))
        counted = Fault(-1, lines_of(module))
        counted.visit(copy.deepcopy(tree))
        work += [(name, module, tree, index) for index in range(counted.seen)]
    random.Random(0).shuffle(work)
    return work[skip:][:sample]


@cache
def lines_of(module: Path) -> list[str]:
    """The source of a module."""
    return module.read_text(encoding="utf-8").splitlines()


def describe(name: str, tree: ast.Module, index: int) -> str:
    """Module, line and what is changed there."""
    fault = Fault(index, lines_of(ROOT / name))
    fault.visit(copy.deepcopy(tree))
    return f"{name} {fault.said}"


def without_line(described: str) -> str:
    """The description of a fault without its line, which every edit above it moves."""
    return re.sub(r" line \d+:", ":", described)


def main() -> None:
    """Try the faults, print what survived and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--modules", nargs="+", required=True)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--sample", type=int, default=None)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="only what survived in the result file, by these tests")
    chosen = parser.parse_args()
    results = ROOT / "benchmarks" / "results" / f"mutation_{chosen.name}.json"
    for name in PRELOADED:
        importlib.import_module(name)
    began = time.monotonic()
    check_sound(chosen.tests)
    limit = 10 + 5 * (time.monotonic() - began)
    work = faults_in(chosen.modules, chosen.skip, chosen.sample)
    counts, survivors, tests, total = {"killed": 0, "survived": 0, "hung": 0}, [], chosen.tests, len(work)
    if chosen.again:
        before = json.loads(results.read_text(encoding="utf-8"))
        work = [one for one in work if describe(one[0], one[2], one[3]) in before["survivors"]]
        counts = {**{key: before[key] for key in counts}, "survived": 0}
        tests = list(dict.fromkeys([*before["tests"], *tests]))
    for number, (name, module, tree, index) in enumerate(work, 1):
        came, _ = run_fault(module, tree, index, chosen.tests, limit)
        counts[came] += 1
        if came == "survived":
            survivors.append(describe(name, tree, index))
            print(f"{number}/{len(work)} survived: {survivors[-1]}", flush=True)
    check_sound(chosen.tests)
    document = {"modules": chosen.modules, "tests": tests, "faults": total, "sampled": chosen.sample}
    # Only now: it imports parts of naslab, which each fork must import for itself.
    from results_file import write_result

    found = {"skipped": chosen.skip, **counts, **judged(survivors, total), "survivors": survivors}
    write_result(results, {**document, **found})


def judged(survivors: list[str], total: int) -> dict[str, Any]:
    """Which survivors change no behaviour, and why; the share of the other faults that was noticed."""
    reasons = json.loads(EQUAL.read_text(encoding="utf-8"))
    equal = {one: reasons[without_line(one)] for one in survivors if without_line(one) in reasons}
    share = (total - len(survivors)) / (total - len(equal))
    print(f"{share:.1%} of {total} faults noticed, {len(equal)} that are equal left aside")
    return {"share_noticed": share, "equal": equal}


if __name__ == "__main__":
    sys.exit(main())
