"""Validates scores: a task's values become plain floats, or a one-line error."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Number, Real
from typing import Any

from naslab.errors import NaslabError
from naslab.search_spaces import Rung

LARGEST = 1e100
"""A score as far from 0 as this has diverged as one that is infinite has; squares of several may exceed all floats."""


class BadScores(NaslabError):
    """A task handed over something that is no score; the trial fails, the study goes on."""


def read_scores(given: object, metric: str, source: str = "evaluate") -> dict[str, float]:
    """Named scores as floats; the metric is finite and below LARGEST, another score that is not is left out.

    Args:
        given: what the task returned.
        metric: the name of the score that ranks.
        source: who returned it, for the message.

    Raises:
        BadScores: no mapping of names to numbers, no score of the metric's name, or one not finite or too large.
    """
    scores = _numbers(given, source)
    if metric not in scores:
        raise BadScores(f"{source} returned {_names(scores)}, but no {metric!r}, which is the task's metric")
    if not _is_usable(scores[metric]):
        beyond = f", beyond {LARGEST:g}" if math.isfinite(scores[metric]) else ""
        raise BadScores(f"{source}: {metric} is {scores[metric]}{beyond}")
    return _finite(scores)


def rungs_of(given: object) -> Iterable[object]:
    """What `train` gave, to be gone through.

    Raises:
        BadScores: it gave nothing of the kind, as where it yields nothing.
    """
    if not isinstance(given, Iterable):
        raise BadScores(f"train returned {_short(given)}, not rungs; it yields one after each epoch")
    return given


def read_rung(rung: object) -> Rung:
    """A rung whose epoch is an int and whose facts are finite floats.

    Raises:
        BadScores: something else was yielded.
    """
    if not isinstance(rung, Rung):
        raise BadScores(f"train yielded {_short(rung)}, not a Rung")
    try:
        epoch = operator.index(rung.epoch)
    except TypeError:
        raise BadScores(f"train yielded a rung at epoch {_short(rung.epoch)}, not a whole number") from None
    earlier = _policy(rung.earlier) or {}
    return Rung(epoch, _finite(_numbers(rung.facts, "train")), _policy(rung.policy), earlier)


def _policy(given: object) -> Mapping[str, Any] | None:
    """How the steps ran, in values that can be written down."""
    try:
        plain = None if given is None else dict(given)  # type: ignore[call-overload]
        json.dumps(plain)
    except Exception:  # noqa: BLE001 - whatever stands there in its place
        raise BadScores(f"train yielded a rung whose policy is {_short(given)}, not names and plain values") from None
    return plain


def _numbers(given: object, source: str) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise BadScores(f"{source} returned {_short(given)}, not named scores such as {{'accuracy': 0.9}}")
    for name in given:
        if not isinstance(name, str):
            raise BadScores(f"{source} returned a score named {_short(name)}; a name is text")
    return {str(name): _number(value, f"{source}: {name}") for name, value in given.items()}


def _number(value: object, place: str) -> float:
    """Python's, NumPy's and torch's real numbers; no truth value, text, masked value or array with axes."""
    try:
        is_scalar = getattr(value, "shape", None) == () and hasattr(value, "item") and not isinstance(value, Number)
        plain: Any = value.item() if is_scalar and not getattr(value, "mask", False) else value  # type: ignore[attr-defined]
        if isinstance(plain, Real | Decimal) and type(plain).__name__ not in ("bool", "bool_"):
            return float(plain)
    except Exception:  # noqa: BLE001 - whatever a number of the user's own raises, it is no score
        pass
    raise BadScores(f"{place} is {_short(value)}, not a number")


def _finite(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if _is_usable(score)}


def _is_usable(score: float) -> bool:
    return math.isfinite(score) and abs(score) < LARGEST


def _names(scores: Mapping[str, float]) -> str:
    return ", ".join(map(repr, scores)) or "no scores"


def _short(value: object) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - it cannot even say what it is
        return f"a {type(value).__name__}"
    return f"{text[:80]}... ({type(value).__name__})" if len(text) > 80 else f"{text} ({type(value).__name__})"
