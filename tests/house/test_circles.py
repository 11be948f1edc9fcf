"""No module imports, directly or over others, a module that imports it.

Imports count wherever they stand: under TYPE_CHECKING and inside functions too. Two modules of which neither can be
read, typed or moved without the other are a circle, whatever the interpreter makes of it.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("kernels", "efficiency", "search_spaces", "nas", "runs")


def modules(root):
    names = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            parts = ("naslab", *path.relative_to(root).with_suffix("").parts)
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(path, known):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in known else str(node.module) for full in inner.values()}
    return found & known


def circles(graph):
    """Groups of modules each of which reaches every other."""

    def reached(start):
        seen, waiting = set(), list(graph[start])
        while waiting:
            if (module := waiting.pop()) not in seen:
                seen.add(module)
                waiting += graph[module]
        return seen

    reach = {module: reached(module) for module in graph}
    groups = {frozenset(other for other in reach[m] if m in reach[other]) for m in graph if m in reach[m]}
    return [set(group) for group in groups]


def graph_of(root):
    names = modules(root)
    return {name: imported(path, set(names)) - {name} for name, path in names.items()}


def test_no_module_imports_itself_over_others():
    graph = graph_of(ROOT)
    assert sum(map(len, graph.values())) > 3 * len(graph) / 2, "the imports were not found"
    assert circles(graph) == []


def test_a_circle_is_found_wherever_the_import_stands(tmp_path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "nas" / "a.py").write_text("from naslab.nas import b\n")
    (tmp_path / "nas" / "b.py").write_text("def later():\n    from naslab.nas.c import thing\n")
    (tmp_path / "nas" / "c.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import naslab.nas.a\n"
    )
    (tmp_path / "nas" / "d.py").write_text("import naslab.nas.a\n")
    assert circles(graph_of(tmp_path)) == [{"naslab.nas.a", "naslab.nas.b", "naslab.nas.c"}]
