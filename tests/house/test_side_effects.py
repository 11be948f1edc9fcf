"""Importing any module of the project changes nothing that a program shares with it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "efficiency", "search_spaces", "nas", "runs")

PROGRAM = """
import importlib, json, logging, os, random, signal, sys, warnings
import numpy, torch
others, ours = json.loads(sys.argv[1])
for name in others:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # an optional package

def shared():
    return {
        "default dtype": torch.get_default_dtype(), "default device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(), "warnings": list(warnings.filters),
        "random": (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()),
        "environment": dict(os.environ), "path": list(sys.path), "folder": os.getcwd(),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "loggers": {n: (l.level, list(l.handlers)) for n in others if (l := logging.getLogger(n))},
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, sys.breakpointhook),
    }

before = shared()
for name in ours:
    importlib.import_module(name)
    after = shared()
    changed = [what for what in before if before[what] != after[what]]
    if changed:
        print(name, "changes", *changed)
        before = after
"""


def modules():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if path.name != "__main__.py":
                yield path, ".".join(("naslab", *parts)).removesuffix(".__init__")


def imported_packages(path):
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module


def changes(tmp_path, ours, others, path):
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM, json.dumps([others, ours])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_import_but_that_of_a_loud_module_changes_anything_global(tmp_path):
    """The loud module, imported last, shows that a change is seen."""
    ours = list(modules())
    found = {name for path, _ in ours for name in imported_packages(path) if not name.startswith("naslab")}
    (tmp_path / "loud.py").write_text("import torch\ntorch.manual_seed(3)\ntorch.set_default_dtype(torch.float64)\n")
    names = [*(name for _, name in ours), "loud"]
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    assert changes(tmp_path, names, sorted(found - {"__future__"}), path) == "loud changes default dtype random\n"
