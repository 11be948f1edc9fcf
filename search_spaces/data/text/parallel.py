"""Parallel pairs of texts: a source and what is to be written for it, such as a text and its summary."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.read import read_every_line, read_table
from naslab.search_spaces.data.text.corpus import docstrings
from naslab.search_spaces.data.text.parts import held_out_parts, set_apart, warn_of_repeats
from naslab.search_spaces.data.text.sentences import movie_reviews
from naslab.search_spaces.options import Options, UserPath
from naslab.search_spaces.parameters import When
from naslab.search_spaces.splits import Splits, by_split

VOWELS, PHRASE = re.compile("[aeiou]"), 2


class ParallelOptions(Options):
    """Which pairs. Where no validation or test part is there, each is a tenth of the pairs."""

    name: Literal["docstrings", "vowels", "files"] = "docstrings"
    """Docstrings of Python's standard library, the rest of each with its first line as its summary; phrases of film
    reviews (package movie-reviews) without their vowels, and whole; or a user's own."""
    root: Annotated[UserPath | None, When("name", ("files",))] = None
    """A table with the columns source and target (.csv or .tsv), or a folder with the lines train.source and
    train.target, and perhaps val.* and test.*."""
    pairs: int | None = Field(None, gt=2)
    """At most so many training pairs as read, of which parts may be held out; None: all."""
    seed: int = Field(0, ge=0)
    """Decides which pairs are held out for validation."""


@dataclass(frozen=True)
class Pairs:
    """Sources and the target of each."""

    sources: Sequence[str]
    targets: Sequence[str]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.sources)

    @property
    def keys(self) -> Sequence[tuple[str, str]]:
        """Each source with its target: what no two parts should share."""
        return list(zip(self.sources, self.targets, strict=True))

    def take(self, indices: Tensor) -> Pairs:
        """The chosen pairs, in that order."""
        chosen = indices.tolist()
        return Pairs([self.sources[i] for i in chosen], [self.targets[i] for i in chosen])


@dataclass(frozen=True)
class ParallelText(Splits[Pairs]):
    """Three parts; `sha256` is of all pairs as read."""

    name: str
    sha256: str


def load_parallel(options: ParallelOptions) -> ParallelText:
    """Read and split.

    Raises:
        InputError: missing or damaged files, parts of different length, or too few pairs for three parts.
    """
    match options.name:
        case "docstrings":
            found = {"train": _docstrings()}
        case "vowels":
            found = {"train": _without_vowels()}
        case _:
            found = _own(options.root)
    whole = found["train"].take(torch.arange(len(found["train"]))[: options.pairs])
    if len(whole) < 3:
        raise InputError(f"data: {options.name} has {len(whole)} training pairs; three or more are needed")
    digest = _digest({**found, "train": whole})
    test, validation = found.get("test"), found.get("validation")
    if test is None:
        rest, held_out = set_apart(torch.zeros(len(whole), dtype=torch.long), None)
        whole, test = whole.take(rest), whole.take(held_out)
    if validation is None:
        rest, held_out = held_out_parts(len(whole), options.seed)
        whole, validation = whole.take(rest), whole.take(held_out)
    for part, pairs in (("validation", validation), ("test", test)):
        warn_of_repeats(whole.keys, pairs.keys, f"{options.name}, {part}")
    return ParallelText(whole, validation, test, options.name, digest)


def _docstrings() -> Pairs:
    """Each docstring of more than one paragraph once: what follows its first line, and that line."""
    seen: dict[str, str] = {}
    for text in docstrings():
        summary, _, rest = text.partition("\n\n")
        if rest.strip() and summary.strip() and "\n" not in summary.strip():
            seen.setdefault(rest.strip(), summary.strip())
    return Pairs(list(seen), list(seen.values()))


def _without_vowels() -> Pairs:
    """Phrases of Rotten Tomatoes' sentences, each once: which word is meant is told by the words around it."""
    seen: dict[str, str] = {}
    for row in movie_reviews():
        words = row["text"].lower().split()
        for start in range(0, len(words), PHRASE):
            phrase = " ".join(words[start : start + PHRASE])
            if (bare := VOWELS.sub("", phrase)).strip():
                seen.setdefault(phrase, bare)
    return Pairs(list(seen.values()), list(seen))


def _own(root: Path | None) -> dict[str, Pairs]:
    if root is None:
        raise InputError("data.root: missing; files needs a table, or the folder of its files")
    if not root.is_dir():
        rows = read_table(root, ("source", "target"))
        return {"train": _whole(Pairs([row["source"] for row in rows], [row["target"] for row in rows]), root)}
    found = {split: _lines(path) for split, path in by_split(sorted(root.glob("*.source"))).items()}
    if "train" not in found:
        raise InputError(f"{root / 'train.source'}: no such file; the folder needs train.source and train.target")
    return found


def _lines(source: Path) -> Pairs:
    target = source.with_suffix(".target")
    pairs = Pairs(read_every_line(source), read_every_line(target))
    if len(pairs.sources) != len(pairs.targets):
        raise InputError(f"{target}: {len(pairs.targets)} lines for the {len(pairs.sources)} of {source.name}")
    return _whole(pairs, source)


def _whole(pairs: Pairs, path: Path) -> Pairs:
    for number, (source, target) in enumerate(zip(pairs.sources, pairs.targets, strict=True), 1):
        if not source.strip() or not target.strip():
            raise InputError(f"{path}: pair {number} has an empty side; write one or remove the pair")
    return pairs


def _digest(parts: dict[str, Pairs]) -> str:
    digest = hashlib.sha256()
    for split in sorted(parts):
        for source, target in zip(parts[split].sources, parts[split].targets, strict=True):
            digest.update("\x1f".join((split, source, target, "\x1e")).encode())
    return digest.hexdigest()
