"""Results of other studies in this one's ranking, and why some cannot be ranked together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from naslab.errors import InputError
from naslab.runs.ledger import Ledger
from naslab.runs.study import Study
from naslab.runs.trial import Trial


@dataclass(frozen=True)
class Neighbour:
    """Another study and its trials."""

    study: Study
    trials: tuple[Trial, ...]


def load_beside(ledger: Ledger, more: Iterable[str] = ()) -> tuple[Neighbour, ...]:
    """The studies that this one's file names in `beside`, and `more`, from the same storage, each once.

    Raises:
        InputError: this study's own name, or a study that is not in the storage or has no finished result.
    """
    names = dict.fromkeys((*ledger.study.beside, *more))
    return tuple(_load(ledger, name) for name in names)


def _load(ledger: Ledger, name: str) -> Neighbour:
    if name == ledger.study.name:
        raise InputError(f"beside: {name} is the study itself; name another one")
    try:
        other = Ledger.open(ledger.url, name)
    except InputError as error:
        raise InputError(f"beside: {name} has not run: {error}") from None
    trials = tuple(other.trials())
    if not any(t.state == "complete" and t.job.role in ("reference", "final") for t in trials):
        raise InputError(f"beside: {name} has not run: none of its configurations has finished yet")
    return Neighbour(other.study, trials)


def check_comparable(study: Study, here: Mapping[str, str], other: Study, there: Mapping[str, str]) -> None:
    """Refuse a study whose figures mean something else.

    Args:
        study: the one whose ranking it is.
        here: its metric and its kind of device, by these words.
        other: the one that is to stand beside it.
        there: the same of it.

    Raises:
        InputError: the metric, the device or something of `Task.benchmark` differs; the first such key, and both
            values, are named.
    """
    own, foreign = _what_counts(study, here), _what_counts(other, there)
    for key in dict.fromkeys((*own, *foreign)):
        if own.get(key) != foreign.get(key):
            raise InputError(
                f"beside: {other.name} cannot be ranked with {study.name}: {key} is {foreign.get(key)!r} there and "
                f"{own.get(key)!r} here"
            )


def _what_counts(study: Study, measured: Mapping[str, str]) -> dict[str, Any]:
    benchmark = study.make_task(torch.device("cpu")).benchmark
    return {**measured, **dict(sorted(_flat(benchmark, "benchmark.")))}


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
