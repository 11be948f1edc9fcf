"""How often the ranking is right: simulated studies of known truth, through the ranking's own verdicts and race.

Usage: python benchmarks/ranking_simulation.py [--studies 1000] [--out benchmarks/results/ranking_simulation.json]

Floor: studies of a reference and one row, 3 seeds, deviation 1 point over seeds, hours within 5 %; where the row ends.
Race: studies of a reference and five rows drawn from ROWS, hours within 3 %, seeds from 3 to `last` by `next_seeds`.
Reported are the coverage of the intervals at the end, false verdicts, and the seeds spent against the fixed design, one
look at n seeds of every row, with the smallest n that leaves no more rows open. Takes about five minutes on a core.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from results_file import write_result

from naslab.nas.racing import Contender, Looks, next_seeds, open_rows
from naslab.nas.statistics import Critical, Interval, paired_interval, student
from naslab.nas.verdict import judge
from naslab.runs.answer import answer_of
from naslab.runs.ranking import rank
from naslab.runs.study import parse_study
from naslab.runs.trial import Job, Trial
from naslab.search_spaces import Configuration

FLOOR = {"equal, half the hours": (0.0, 0.5), "half a point worse, half the hours": (-0.5, 0.5),
         "3 points better, 1.2 times the hours": (3.0, 1.2), "3 points worse, half the hours": (-3.0, 0.5)}  # fmt: skip
"""True difference to the reference in points, and share of its hours."""
ROWS = ((0, 0.5), (-0.5, 0.5), (3, 1.2), (-3, 0.6), (-2, 0.9), (1, 1.0), (-4, 0.4), (2, 0.8))
MARGIN, TIE, DRAWN = 1.0, 0.05, 5
BASE = 80.0


def floor(difference: float, hours: float, studies: int, seeds: int, deviation: float = 1.0) -> dict[str, Any]:
    """Where a row ends in `rank`, over studies."""
    study = parse_study(
        {"schema": "naslab.study/1", "name": "simulated", "space": {"name": "nasiam", "preset": "tiny"}}, "simulation"
    )
    rng = np.random.default_rng(0)
    other = Configuration("nasiam", (("head", "cell"), ("projector", ("relu",) * 6), ("predictor", ("relu",) * 4)))
    verdicts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    unranked = 0
    for _ in range(studies):
        trials = []
        for role, configuration, mean, cost in (
            ("reference", study.search_space.reference, BASE, 1.0),
            ("final", other, BASE + difference, hours),
        ):
            for seed in range(seeds):
                job = Job(f"{role}/{seed}", role, role, seed, configuration, "tpe" if role == "final" else None)  # type: ignore[arg-type]
                seconds = 3600 * cost * rng.uniform(0.95, 1.05)
                score = {"knn_top1": mean + deviation * rng.normal()}
                facts = {"metric": "knn_top1"}
                trials.append(Trial(len(trials), job, "complete", (), {"train": seconds}, "cpu", score, facts))
        ranking = rank(study, trials)
        row = next(row for row in ranking.rows if not row.reference)
        verdicts[str(row.verdict)] += 1
        unranked += row.rank is None
        kinds.update({finding.kind for finding in answer_of(ranking).findings if finding.kind in ("cheapest", "best")})
    share = {verdict: verdicts[verdict] / studies for verdict in ("meets", "undecided", "below")}
    said = {kind: kinds[kind] / studies for kind in ("cheapest", "best")}
    return {
        "seeds": seeds,
        "studies": studies,
        "share": share,
        "without_rank": unranked / studies,
        "answer_names": said,
    }


class Simulated:
    """One study: all the seeds that it could have, and how many each row has had."""

    def __init__(self, rng: np.random.Generator, deviation: float, first: int, most: int) -> None:
        chosen = [(0.0, 1.0), *(ROWS[i] for i in rng.choice(len(ROWS), DRAWN, replace=False))]
        self.truth = [float(difference) for difference, _ in chosen]
        self.quality = [BASE + difference + deviation * rng.normal(size=most) for difference, _ in chosen]
        hours = [cost * np.exp(0.03 * rng.normal(size=most)) for _, cost in chosen]
        self.score = [quality / spent for quality, spent in zip(self.quality, hours, strict=True)]
        self.seeds = [first] * len(chosen)

    def contenders(self) -> list[Contender]:
        """The rows with the seeds that they have had; the first is the reference."""
        return [
            Contender(str(i), dict(enumerate(self.quality[i][:n])), dict(enumerate(self.score[i][:n])))
            for i, n in enumerate(self.seeds)
        ]

    def race(self, looks: Looks) -> None:
        """Give seeds until all is settled or each row has its last."""
        while True:
            rows = self.contenders()
            wanted = [int(name) for name in next_seeds(rows, rows[0].quality, MARGIN, looks, TIE)]
            if not wanted:
                return
            for row in wanted:
                self.seeds[row] += 1
            self.seeds[0] = max(self.seeds)  # differences are paired with the reference's seeds


def tally(studies: int, deviation: float, critical: Critical, make: Callable[[np.random.Generator], Simulated]) -> Any:
    """Coverage, false verdicts, rows left open and seeds spent a study."""
    rng = np.random.default_rng(1)
    found: list[tuple[float, Interval]] = []
    seeds, still_open = 0, 0
    for _ in range(studies):
        study = make(rng)
        rows = study.contenders()
        reference = rows[0].quality
        found += [
            (truth, paired_interval(row.quality, reference, critical))
            for truth, row in zip(study.truth[1:], rows[1:], strict=True)
        ]
        still_open += len(open_rows(rows, reference, MARGIN, critical, TIE) - {"0"})
        seeds += sum(study.seeds)

    def share(holds: Callable[[float, Interval], bool]) -> float:
        return sum(holds(truth, interval) for truth, interval in found) / len(found)

    return {
        "coverage": share(lambda truth, d: d.low is not None and d.high is not None and d.low <= truth <= d.high),
        "false_meets": share(lambda truth, d: judge(d, MARGIN) == "meets" and truth < -MARGIN),
        "false_below": share(lambda truth, d: judge(d, MARGIN) == "below" and truth >= -MARGIN),
        "false_better": share(lambda truth, d: d.low is not None and d.low > 0 >= truth),
        "open": still_open / len(found),
        "seeds_a_study": seeds / studies,
    }


def race(studies: int, deviation: float, last: int) -> dict[str, Any]:
    """The race against the fixed design that settles as much."""
    looks = Looks(3, last)

    def raced(rng: np.random.Generator) -> Simulated:
        study = Simulated(rng, deviation, looks.first, last)
        study.race(looks)
        return study

    racing = tally(studies, deviation, looks.critical, raced)

    def fixed_at(seeds: int) -> dict[str, Any]:
        found: dict[str, Any] = tally(
            max(studies // 3, 1), deviation, student, lambda rng: Simulated(rng, deviation, seeds, seeds)
        )
        return found

    low, high = looks.first, 2 * last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fixed_at(middle)["open"] <= racing["open"] else (middle + 1, high)
    seeds, fixed = low, fixed_at(low)
    ratio = racing["seeds_a_study"] / fixed["seeds_a_study"]
    line = {"deviation": deviation, **asdict(looks), "race": racing, "fixed": {"seeds": seeds, **fixed}, "spent": ratio}
    print({key: line[key] for key in ("deviation", "last", "spent")}, racing)
    return line


def main() -> None:
    """Run both simulations and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ranking_simulation.json"))
    arguments = parser.parse_args()
    floors = {
        f"{name}, {seeds} seeds": floor(*row, studies=min(400, arguments.studies), seeds=seeds)
        for name, row in FLOOR.items()
        for seeds in (3, 12)
    }
    for name, line in floors.items():
        print(name, line["share"], line["answer_names"])
    races = [race(arguments.studies, deviation, last) for deviation in (0.5, 1.0) for last in (12, 20)]
    write_result(arguments.out, {"margin": MARGIN, "tie": TIE, "floor": floors, "race": races})


if __name__ == "__main__":
    main()
