"""The user's cache folder: compiled loops and tuned launch sizes, made once per machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def user_id() -> int:
    """The user's number; 0 where the system has none."""
    return os.getuid() if hasattr(os, "getuid") else 0


def cache_folder() -> Path:
    """`$NASLAB_CACHE`, else `naslab` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`).

    A user without a home, as in a container that runs under any number, has `naslab-NUMBER` in the temporary folder.
    """
    chosen = os.environ.get("NASLAB_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naslab"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"naslab-{user_id()}"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically, also when several processes write the same one; all may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
