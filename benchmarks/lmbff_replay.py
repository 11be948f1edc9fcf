"""Samplers replayed on the scores that LM-BFF's authors published for their searched templates: 15 tasks x 5 splits.

Usage: python benchmarks/lmbff_replay.py [--draws 20] [--out benchmarks/results/lmbff_replay.json]; half a minute

Each of the 75 cells holds about 100 templates with their validation scores. A sampler evaluates BUDGET of them. A hit
is a best within one validation example of the cell's best; the regret is what it is below it. `text` is a Gaussian
process over the words of the templates; `text, earlier splits` also knows what it evaluated itself on the task's splits
before. One ranking is of what the other tasks' studies say of the words.

What could be hoped for: rankings that no sampler can have, of all other scores; and by simulation, how closely a
ranking must follow the scores. `known` says how closely the rankings do.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results_file import RESULTS, read_result, write_result
from study_result import table_row

TABLE = Path(__file__).with_name("lmbff_templates.tsv")
RESULT = RESULTS / "lmbff_replay.json"
SEEDS = (13, 21, 42, 87, 100)
CLASSES = {"sst-5": 5, "trec": 6, "MNLI": 3, "SNLI": 3}
"""Of the other tasks 2; 16 validation examples each."""
BUDGET = 25
START = 4
NOISE, CURIOSITY, LIKENESS = 1.0, 1.0, 0.7
"""Variance of a score about its text's; standard deviations added to the mean; of a template on two splits."""
RIDGE = 300.0
NOT_MEASURED = "Replay: not measured."
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """Templates in the order in which the T5 ranked them, and the score of each."""

    templates: Sequence[str]
    scores: Floats


@cache
def cells() -> dict[str, list[Cell]]:
    """By task, its five splits."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    with TABLE.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            found.setdefault((row["task"], row["seed"]), []).append((row["template"], float(row["score"])))
    tasks = dict.fromkeys(task for task, _ in found)
    made = {key: Cell([t for t, _ in rows], np.array([s for _, s in rows])) for key, rows in found.items()}
    return {task: [made[task, str(seed)] for seed in SEEDS] for task in tasks}


def words(template: str) -> dict[str, float]:
    """What a template says, and what stands beside its mask."""
    spaced = re.sub(r"\*([^*]*)\*", lambda m: f" <{m[1]}> ", template).replace("_", " ")
    tokens = re.findall(r"<[^>]+>|\w+|[^\w\s]", spaced)
    mask = tokens.index("<mask>") if "<mask>" in tokens else 0
    beside = {f"{d:+d} {tokens[mask + d]}" for d in (-2, -1, 1, 2) if 0 <= mask + d < len(tokens)}
    return dict.fromkeys((*tokens, *beside, f"length {min(len(tokens), 12)}"), 1.0)


def likeness(templates: Sequence[str]) -> Floats:
    """Cosines of the templates' words, the rare ones counting more."""
    texts = [words(template) for template in templates]
    names = {name: number for number, name in enumerate(dict.fromkeys(name for text in texts for name in text))}
    there = np.zeros((len(texts), len(names)))
    for row, text in enumerate(texts):
        there[row, [names[name] for name in text]] = 1
    weighted = there * np.sqrt(np.log((1 + len(texts)) / there.sum(0)) + 0.1)
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    return np.asarray(weighted @ weighted.T)


def by_text(splits: Sequence[Cell], rng: np.random.Generator, remember: bool) -> list[list[int]]:
    """The templates evaluated on each split, one split after the other, by upper confidence bounds."""
    ends = np.cumsum([0, *(len(cell.scores) for cell in splits)])
    split_of = np.repeat(np.arange(len(splits)), np.diff(ends))
    covariance = likeness([t for cell in splits for t in cell.templates])
    covariance *= np.where(split_of[:, None] == split_of, 1.0, LIKENESS)
    known, values, found = np.empty(0, dtype=np.int64), np.empty(0), []
    for start, cell in zip(ends, splits, strict=False):
        here = start + np.arange(len(cell.scores))
        seen: list[int] = [] if len(known) else rng.permutation(len(here))[:START].tolist()
        while len(seen) < BUDGET:
            at = np.concatenate([here[seen], known]).astype(np.int64)
            bound = _bounds(covariance, here, at, np.concatenate([_standard(cell.scores[seen]), values]))
            bound[seen] = -np.inf
            seen.append(int((bound + 1e-6 * rng.standard_normal(len(here))).argmax()))
        found.append(seen)
        if remember:
            known = np.concatenate([known, here[seen]])
            values = np.concatenate([values, _standard(cell.scores[seen])])
    return found


def _bounds(covariance: Floats, here: NDArray[np.int64], at: NDArray[np.int64], values: Floats) -> Floats:
    across = covariance[np.ix_(here, at)]
    solved = np.linalg.solve(covariance[np.ix_(at, at)] + NOISE * np.eye(len(at)), np.c_[values, across.T])
    variance = covariance[here, here] - np.einsum("ij,ji->i", across, solved[:, 1:])
    return np.asarray(across @ solved[:, 0] + CURIOSITY * np.sqrt(variance.clip(min=0)))


def _standard(scores: Floats) -> Floats:
    """Scores of one split about their mean; few alike are not blown up."""
    return (scores - scores.mean()) / max(scores.std(), 0.02) if len(scores) else scores


def first(splits: Sequence[Cell], rng: np.random.Generator) -> list[list[int]]:
    """As the T5 ranked them."""
    return [list(range(BUDGET)) for _ in splits]


def at_random(splits: Sequence[Cell], rng: np.random.Generator, budget: int = BUDGET) -> list[list[int]]:
    """Without repetition."""
    return [rng.permutation(len(cell.scores))[:budget].tolist() for cell in splits]


def standardised(splits: Sequence[Cell]) -> list[Floats]:
    """The scores of each split about their mean."""
    return [_standard(cell.scores) for cell in splits]


def by_others_of_split(splits: Sequence[Cell]) -> list[Floats]:
    """What the text of all other templates and their scores on the split say of each: no sampler knows so much."""
    found = []
    for cell, values in zip(splits, standardised(splits), strict=True):
        inverse = np.linalg.inv(likeness(cell.templates) + NOISE * np.eye(len(values)))
        found.append(values - (inverse @ values) / np.diag(inverse))
    return found


def by_other_splits(splits: Sequence[Cell]) -> list[Floats]:
    """What the very template scores on the task's other splits, all of them; 0 where it stands in none."""
    scores = [dict(zip(c.templates, v, strict=True)) for c, v in zip(splits, standardised(splits), strict=True)]
    return [
        np.array([sum(other.get(t, 0.0) for other in scores if other is not own) for t in cell.templates])
        for cell, own in zip(splits, scores, strict=True)
    ]


def by_other_tasks(splits: Sequence[Cell]) -> list[Floats]:
    """What the words of other tasks' templates and their scores say, by ridge regression; finished studies know it."""
    others = [cell for own in cells().values() if own is not splits for cell in own]
    names = sorted({name for cell in others for template in cell.templates for name in words(template)})
    known = np.concatenate([_centred_words(cell, names) for cell in others])
    scores = np.concatenate(standardised(others))
    weights = np.linalg.solve(known.T @ known + RIDGE * np.eye(len(names)), known.T @ scores)
    return [_centred_words(cell, names) @ weights for cell in splits]


def _centred_words(cell: Cell, names: Sequence[str]) -> Floats:
    texts = [words(template) for template in cell.templates]
    there = np.array([[text.get(name, 0.0) for name in names] for text in texts])
    return np.asarray(there - there.mean(0))


def as_close_as(correlation: float, splits: Sequence[Cell], rng: np.random.Generator) -> list[list[int]]:
    """The first of a ranking whose normal scores correlate so with those of the scores."""
    found = []
    for cell in splits:
        ranks = (cell.scores + 1e-9 * rng.standard_normal(len(cell.scores))).argsort().argsort()
        normal = np.array([NormalDist().inv_cdf((rank + 0.5) / len(ranks)) for rank in ranks])
        close = correlation * normal + np.sqrt(1 - correlation**2) * rng.standard_normal(len(ranks))
        found.append(close.argsort()[::-1][:BUDGET].tolist())
    return found


def _best(rank: Callable[[Sequence[Cell]], list[Floats]]) -> Callable[..., list[list[int]]]:
    return lambda splits, rng: [predicted.argsort()[::-1][:BUDGET].tolist() for predicted in rank(splits)]


def known() -> dict[str, float]:
    """Mean correlation over the cells of the scores with what each ranking predicts."""
    found: dict[str, float] = {}
    for name, rank in RANKINGS.items():
        pairs = [(v, p) for splits in cells().values() for v, p in zip(standardised(splits), rank(splits), strict=True)]
        found[name] = float(np.mean([np.corrcoef(v, p)[0, 1] for v, p in pairs]))
    return found


RANKINGS: dict[str, Callable[[Sequence[Cell]], list[Floats]]] = {
    "the text, by the other tasks' scores": by_other_tasks,
    "hindsight: the template on the other splits": by_other_splits,
    "hindsight: the text of all others on the split": by_others_of_split,
}
SIMULATED = (0.2, 0.3, 0.4)
SAMPLERS: dict[str, Callable[[Sequence[Cell], np.random.Generator], list[list[int]]]] = {
    "random": at_random,
    "random, twice as many": lambda splits, rng: at_random(splits, rng, 2 * BUDGET),
    "the T5's order": first,
    "text": lambda splits, rng: by_text(splits, rng, remember=False),
    "text, earlier splits": lambda splits, rng: by_text(splits, rng, remember=True),
    **{name: _best(rank) for name, rank in RANKINGS.items()},
    **{f"simulated: a ranking of correlation {value:g}": partial(as_close_as, value) for value in SIMULATED},
}
SETTLED = ("the T5's order", *RANKINGS)
"""Those that draw nothing."""


def replay(name: str, draws: int) -> dict[str, Any]:
    """Share of hits and mean regret over all cells, with those of each draw and each task."""
    hits: dict[str, list[float]] = {}
    regrets: dict[str, list[float]] = {}
    for task, splits in cells().items():
        for draw in range(1 if name in SETTLED else draws):
            chosen = SAMPLERS[name](splits, np.random.default_rng([draw, len(task)]))
            lost = [cell.scores.max() - cell.scores[seen].max() for cell, seen in zip(splits, chosen, strict=True)]
            example = 1 / (16 * CLASSES.get(task, 2))
            hits.setdefault(task, []).append(float(np.mean([value <= example + 1e-9 for value in lost])))
            regrets.setdefault(task, []).append(float(np.mean(lost)))
    by_task = {task: {"hits": np.mean(hits[task]), "regret": np.mean(regrets[task])} for task in hits}
    return {
        "hits": float(np.mean([row["hits"] for row in by_task.values()])),
        "regret": float(np.mean([row["regret"] for row in by_task.values()])),
        "hits_of_draws": np.mean(list(hits.values()), axis=0).tolist(),
        "tasks": by_task,
    }


def table() -> str:
    """The result file as Markdown."""
    found = read_result("lmbff_replay")
    if found is None:
        return NOT_MEASURED
    head = ["sampler, 25 evaluations", "within one example of the best", "mean regret", "correlation with the scores"]
    lines = [table_row(head), table_row(["---"] * len(head))]
    for name, row in found["samplers"].items():
        known = f"{found['known'][name]:.2f}" if name in found["known"] else ""
        lines.append(table_row([name, f"{row['hits']:.0%}", f"{row['regret']:.3f}", known]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found = {name: replay(name, arguments.draws) for name in SAMPLERS}
    for name, row in found.items():
        print(f"{name}: {row['hits']:.3f} hits, regret {row['regret']:.4f}")
    document = {"schema": "naslab.lmbff_replay/1", "draws": arguments.draws, "budget": BUDGET, "samplers": found}
    write_result(arguments.out, {**document, "known": known()})


if __name__ == "__main__":
    main()
