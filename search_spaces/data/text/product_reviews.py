"""Rated sentences of product reviews, as they lie in the source distribution of the package vaderSentiment.

They are sentences of the reviews of Hu and Liu (2004), of which CR is made, rated by people from -4 to 4 (Hutto and
Gilbert 2014). The archive's movie sentences are left out: most of them stand in Rotten Tomatoes, too.
"""

from __future__ import annotations

import io
import math
import tarfile
import zlib
from pathlib import Path

from naslab.errors import InputError

FILE = "amazonReviewSnippets_GroundTruth.txt"
INNER = "hutto_ICWSM_2014.tar.gz"
WANTED = "the source distribution of vaderSentiment: pip download --no-deps --no-binary :all: vaderSentiment==3.3.2"


def product_reviews(root: Path | None) -> list[dict[str, str]]:
    """Rows of `text` and `label`, positive above a mean rating of 0 and negative below; each text once.

    Raises:
        InputError: the path is missing, or holds no such sentences.
    """
    if root is None:
        raise InputError(f"data.root: missing; product_reviews needs {WANTED}")
    rows: dict[str, str] = {}
    for number, line in enumerate(_ratings(root).splitlines(), 1):
        cells = line.split("\t", 2)
        try:
            rating, text = float(cells[1]), cells[2].strip()
        except (IndexError, ValueError):
            rating, text = math.nan, ""
        if not math.isfinite(rating):
            raise InputError(f"data.root: {root}: line {number} of {FILE} is no rating and a text")
        if rating and text:
            rows.setdefault(text, "positive" if rating > 0 else "negative")
    if not rows:
        raise InputError(f"data.root: {root}: {FILE} holds no rated sentence")
    return [{"text": text, "label": label} for text, label in rows.items()]


def _ratings(root: Path) -> str:
    """The file's text, found in a folder, in the archive within it, or in that of the distribution."""
    try:
        data = _in_folder(root) if root.is_dir() else root.read_bytes() if root.suffix == ".txt" else _in_archive(root)
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        what = " ".join(str(error).split())  # of a file that is no archive a line for each kind that it is not
        raise InputError(f"data.root: {root}: cannot be read ({what}); it should be {WANTED}") from None
    if data is None:
        raise InputError(f"data.root: {root}: holds no {FILE}; it should be {WANTED}")
    return data.decode("utf-8", errors="replace")


def _in_folder(root: Path) -> bytes | None:
    for name in (FILE, INNER):
        for path in sorted(root.rglob(name)):
            return path.read_bytes() if name == FILE else _in_archive(path)
    return None


def _in_archive(archive: Path | io.BytesIO) -> bytes | None:
    with tarfile.open(archive) if isinstance(archive, Path) else tarfile.open(fileobj=archive) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in (FILE, INNER) and (file := tar.extractfile(member)) is not None:
                return file.read() if name == FILE else _in_archive(io.BytesIO(file.read()))
    return None
