"""Reading of annotation files: JSON, tables, lines and one kind of pickle, each with one clear line when it fails."""

from __future__ import annotations

import csv
import io
import json
import pickle
from pathlib import Path
from typing import Any

from naslab.errors import InputError


def read_json(path: Path, kind: Any) -> Any:
    """A JSON document: of a type or one of a tuple of types, or, where `kind` is a dict, with its keys and types."""
    try:
        document = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON (line {error.lineno}: {error.msg}); fetch the file again") from None
    if isinstance(kind, dict):
        for key, part in kind.items():
            if not isinstance(document, dict) or not isinstance(document.get(key), part):
                raise InputError(f"{path}: holds no list {key!r}; the file is not of the published format")
    elif not isinstance(document, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join({list: "a list", dict: "an object"}[k] for k in kinds)
        raise InputError(f"{path}: must hold {names}; the file is not of the published format")
    return document


TABLES = {".csv": ",", ".tsv": "\t"}
"""What stands between the columns of a table, by its suffix in lower case."""


def read_table(path: Path, columns: tuple[str, ...], delimiter: str | None = None) -> list[dict[str, str]]:
    """The rows of a table with a header; missing cells are empty. Between columns stand tabs in a .tsv, else commas.

    Raises:
        InputError: the file is JSON, one of `columns` is not in the header, a name stands there twice, no row follows,
            between commas a row has too many cells, or a quote is not closed where its cell ends.
    """
    text, delimiter = _text(path), delimiter or TABLES.get(path.suffix.lower(), ",")
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson") or text.startswith(("{", "[")):
        raise InputError(
            f"{path}: JSON is not read here; write a table with columns {', '.join(columns)}, .csv or .tsv"
        )
    # Strict: otherwise a cell that begins with a quote takes in all that follows, up to the next quote.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", strict=True)
    most = csv.field_size_limit(2**31 - 1)  # otherwise a text of 131,072 characters is refused
    try:
        header = list(reader.fieldnames or [])
        rows = list(reader)
    except csv.Error as error:
        raise InputError(
            f"{path}: after line {reader.line_num}: {error}; a cell with quotes is quoted whole, its own quotes doubled"
        ) from None
    finally:
        csv.field_size_limit(most)
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise InputError(f"{path}: column {twice[0]!r} stands twice in the header; keep one")
    for column in columns:
        if column not in header:
            between = "tabs" if delimiter == "\t" else "commas"
            there = ", ".join(map(repr, header)) or "none"
            raise InputError(f"{path}: no column {column!r} among {there} (columns stand between {between})")
    for number, row in enumerate(rows, 1):
        # The reader puts what is beyond the header under None.
        if row.pop(None, None) is not None and delimiter == ",":
            raise InputError(f"{path}: row {number} has more cells than the header; quote text that holds commas")
    if not rows:
        raise InputError(f"{path}: no row under the header")
    return rows


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank, without space around them."""
    return [line for line in read_every_line(path) if line]


def read_every_line(path: Path) -> list[str]:
    """The lines without space around them, blank ones too, but for those at the end: number i is the file's line i + 1.

    Only line feeds and carriage returns end a line. What else Python splits at, such as U+2028, stands within texts.
    """
    text = _text(path).rstrip()
    if not text:
        raise InputError(f"{path}: empty; fetch the file again")
    return [line.strip() for line in text.split("\n")]


def read_pickled_captions(path: Path) -> dict[str, list[str]]:
    """A pickled dict from a video's name to its captions, each a string or a list of words.

    Only plain values are unpickled: a file that names any class or function is refused, so none of its code runs.
    """
    try:
        with path.open("rb") as file:
            document = _Plain(file, encoding="latin1").load()
        return {
            str(name): [text if isinstance(text, str) else " ".join(text) for text in captions]
            for name, captions in document.items()
        }
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise InputError(f"{path}: not a pickled dict of captions ({error}); fetch the file again") from None


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; the pages on data in docs/ say how each data set must lie on disk"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as plain text in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
