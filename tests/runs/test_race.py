"""Seeds race in the plan: after the first seeds of all, only where a verdict or the order is open."""

from __future__ import annotations

import pytest
from synthetic_study import BY_TPE, PUBLISHED, make_study, trial

from naslab.errors import InputError
from naslab.runs.race import race_jobs
from naslab.runs.ranking import rank
from naslab.runs.study import parse_study


def rows(scores, seconds=180.0):
    return [trial(s, "reference", 80 + 0.01 * s, configuration=PUBLISHED, seed=s) for s in range(3)] + [
        trial(10 + s, "final", v, configuration=BY_TPE, arm="tpe", seed=s, seconds=seconds)
        for s, v in enumerate(scores)
    ]


def test_an_open_row_gets_the_next_seed_with_the_reference_beside_it():
    study = make_study(seeds={"from": 3, "to": 5})
    assert (study.seeds, study.race_to) == ((0, 1, 2), 5)
    assert parse_study(study.document(), "again") == study
    jobs = list(race_jobs(study, "knn_top1", rows((75.0, 80.0, 85.0))))
    assert [(job.role, job.seed) for job in jobs] == [("reference", 3), ("final", 3)]
    assert list(race_jobs(study, "knn_top1", rows((60.0, 60.1, 60.2)))) == [], "settled: below"
    assert list(race_jobs(make_study(), "knn_top1", rows((75.0, 80.0, 85.0)))) == [], "no race was asked for"


def test_looks_are_paid_for_in_the_intervals():
    trials = rows((75.0, 80.0, 85.0))
    plain, racing = (
        rank(make_study(**seeds), trials).rows[1].difference for seeds in ({}, {"seeds": {"from": 3, "to": 12}})
    )
    assert racing.high - racing.low > plain.high - plain.low


@pytest.mark.parametrize("seeds", [{"from": 3}, {"from": 5, "to": 3}, {"from": 1, "to": 3}, {"from": "a", "to": 3}])
def test_a_race_that_makes_no_sense_is_refused_in_a_line(seeds):
    with pytest.raises(InputError, match=r"a race is written \{from: 3, to: 12\}"):
        make_study(seeds=seeds)
