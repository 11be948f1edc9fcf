"""Files written atomically: a reader, also after a crash, finds the complete old or the complete new one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Put `text` at `path` in one step; what is no file, such as a pipe or /dev/stdout, takes it as it comes.

    The permissions are those of the file that stood there, or the user's own for a new one.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", newline="")
        return
    target = path.resolve()  # a link stays one
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        if target.exists():
            partial.chmod(target.stat().st_mode)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
