"""The user's cache folder: what is made once per machine, compiled loops and tuned launches."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """`$NASLAB_CACHE`, else `naslab` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`)."""
    chosen = os.environ.get("NASLAB_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naslab"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically, also when several processes write the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(name, path)
