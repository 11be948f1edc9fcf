"""A first pass over files: what cannot be used is left out, counted and named before a study begins."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from naslab.errors import InputError
from naslab.kernels._cache import cache_folder, replace_file

NAMED = 5
"""How many of the files left out a warning names; the answer names all."""
BLOCK = 64
"""Files that are looked at before it is asked whether they suffice."""
THREADS = min(8, os.cpu_count() or 1)

V = TypeVar("V")


def sift(
    items: Sequence[V], look: Callable[[V], tuple[str, str]], where: str, kind: str, limit: int | None
) -> tuple[list[V], tuple[str, ...]]:
    """The first `limit` items that can be used, and what was left out before them, which is warned of.

    Args:
        look: the name of an item, and what stands against using it.
        where: which items these are, for the warning.
        kind: what they are, in the plural.

    Raises:
        InputError: none can be used.
    """
    usable: list[V] = []
    skipped: list[str] = []
    looked = 0
    with ThreadPoolExecutor(THREADS) as pool:
        while looked < len(items) and (limit is None or len(usable) < limit):
            part = items[looked : looked + BLOCK]
            looked += len(part)
            for item, (name, trouble) in zip(part, pool.map(look, part), strict=True):
                if trouble:
                    skipped.append(f"{name} ({trouble})")
                else:
                    usable.append(item)
    if skipped:
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        warnings.warn(
            f"{where}: {len(skipped)} of {looked} {kind} left out: {', '.join(skipped[:NAMED])}{more}", stacklevel=6
        )
    if not usable:
        first = f"; the first: {skipped[0]}" if skipped else ""
        raise InputError(f"{where}: none of {len(items)} {kind} can be used{first}")
    return usable[:limit], tuple(skipped)


@contextmanager
def remembered(
    paths: Sequence[Path], limit: int | None, trouble_with: Callable[[Path], str]
) -> Iterator[Callable[[Path], str]]:
    """`trouble_with` for one pass; another worker's pass over the same, unchanged files reads none of them again.

    What was found is kept in the user's cache folder, by names, sizes and times of the files. A folder that cannot be
    written to does no harm.
    """
    record = cache_folder() / "first-pass" / f"{_digest(paths, limit)}.json"
    known: dict[str, str] = {}
    try:
        known = json.loads(record.read_bytes())
    except (OSError, ValueError):
        yield lambda path: known.setdefault(str(path), trouble_with(path))
        with suppress(OSError):
            replace_file(record, json.dumps({path: trouble for path, trouble in known.items() if trouble}).encode())
    else:
        yield lambda path: known.get(str(path), "")


def _digest(paths: Sequence[Path], limit: int | None) -> str:
    digest = hashlib.sha256(str(limit).encode())
    for path in sorted(paths) if limit is None else paths:
        with suppress(OSError):
            status = path.stat()
            digest.update(f"{path.absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
