"""The user's own modules, found in the current folder or beside a script."""

from __future__ import annotations

import sys
from pathlib import Path

from naslab import version


def import_from(folder: Path) -> None:
    """Let the modules of `folder` be imported, as Python lets those beside a script: before all others.

    A folder with a `naslab` of its own comes last: workers take over the path, and would import that in our place.
    """
    name, home = str(folder.resolve()), str(Path(version.__file__).resolve().parents[1])
    if name in sys.path or ("" in sys.path and folder.resolve() == Path.cwd()):
        return
    if name == home or not _has_namesake(folder):
        sys.path.insert(0, name)
        return
    sys.path += [place for place in (home, name) if place not in sys.path]


def _has_namesake(folder: Path) -> bool:
    return (folder / "naslab.py").exists() or (folder / "naslab" / "__init__.py").exists()
