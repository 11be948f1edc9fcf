"""Writes the tree of files in architecture.md: each file with the first line of its docstring or description."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = ("naslab", "kernels", "efficiency", "search_spaces", "nas", "runs", "studies", "examples", "benchmarks")
BEGIN, END = "<!-- tree:begin -->\n```\n", "```\n<!-- tree:end -->"


def tree() -> str:
    """The block of the page."""
    lines = []
    for folder in FOLDERS:
        lines.append(f"{folder}/")
        files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml") and _belongs(path)]
        names = {path.relative_to(ROOT / folder).as_posix(): path for path in sorted(files)}
        width = max(map(len, names)) + 2
        lines += [f"  {name:{width}}{opening(path)}".rstrip() for name, path in names.items()]
    return "\n".join(lines) + "\n"


def _belongs(path: Path) -> bool:
    linked = any(parent.is_symlink() for parent in path.parents if ROOT in parent.parents)
    return not linked and "naslab-runs" not in path.parts


def opening(path: Path) -> str:
    """What a file says of itself first, without its last full stop."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    else:
        said = re.split(r"(?<=[.?])\s", " ".join(yaml.safe_load(text).get("description", "").split()))[0]
    return said.removesuffix(".")


def page_with_tree(page: str) -> str:
    """`page` with the tree as the files are now."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + tree() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page_with_tree(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
