"""Seeds race in the plan: after the first seeds of all, only where a verdict or the order is open."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline import run_here
from synthetic_study import BY_DARTS, BY_TPE, PUBLISHED, make_study, trial

from naslab.errors import InputError
from naslab.nas.racing import Contender, _verdict
from naslab.nas.verdict import tellable
from naslab.runs.dry_run import seed_advice, seed_words
from naslab.runs.ledger import Ledger
from naslab.runs.limits import forecast_hours
from naslab.runs.race import _best_baseline, _floor, is_race_job, race_jobs
from naslab.runs.ranking import rank
from naslab.runs.study import load_study, parse_study
from naslab.runs.table import columns_of, spoken


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


@pytest.mark.parametrize(
    ("state", "seeds"), [("running", []), ("interrupted", [3, 3]), ("failed", [4, 4]), ("timed_out", [4, 4])]
)
def test_a_seed_that_was_interrupted_is_given_again_and_one_on_its_way_is_waited_for(state, seeds):
    study = make_study(seeds={"from": 3, "to": 5})
    begun = [*rows((75.0, 80.0, 85.0)), trial(20, "final", 0, configuration=BY_TPE, arm="tpe", seed=3, state=state)]
    jobs = list(race_jobs(study, "knn_top1", begun))
    assert [job.seed for job in jobs] == seeds
    assert all(is_race_job(study, job) for job in jobs)
    assert not any(is_race_job(study, t.job) for t in begun[:6])
    ended = [*begun[:6], *(trial(20 + s, "final", 0, configuration=BY_TPE, seed=s, state="failed") for s in (3, 4))]
    assert list(race_jobs(study, "knn_top1", ended)) == [], "no seed is left"
    assert not is_race_job(make_study(), trial(0, "final", 0, configuration=BY_TPE, seed=9).job)


def test_looks_are_paid_for_in_the_intervals():
    trials = rows((75.0, 80.0, 85.0))
    plain, racing = (
        rank(make_study(**seeds), trials).rows[1].difference for seeds in ({}, {"seeds": {"from": 3, "to": 12}})
    )
    assert racing.high - racing.low > plain.high - plain.low


def seeds_by_row(trials):
    rows = {}
    for t in trials:
        if t.job.role in ("reference", "final") and t.state == "complete":
            rows.setdefault((t.job.role, t.job.configuration), []).append(t.job.seed)
    return rows


def raced(toy_file, luck, **more):
    """A whole race through the driver: all layers fair, which is the reference's worth, and all layers good."""
    vary = {"cell": [["fair", "fair", "fair", "poor"], ["good"] * 4]}
    grid = {"name": "cells", "engine": "grid", "vary": vary}
    settings = {"seeds": {"from": 2, "to": 4}, "arms": [grid], "random_architectures": 0, "ranking": {"by": "gain"}}
    path = toy_file(task={"epochs": 1, "seconds": 0.0, "luck": luck}, **{**settings, **more})
    return run_here(Ledger.start("runs.db", load_study(path))).trials()


def test_a_race_through_the_driver(toy_file):
    trials = raced(toy_file, luck=30.0)
    rows = seeds_by_row(trials)
    assert all(seeds == list(range(len(seeds))) for seeds in rows.values()), "each row's seeds follow one another"
    (published,) = [len(seeds) for (role, _), seeds in rows.items() if role == "reference"]
    assert 2 < max(map(len, rows.values())) == published <= 4
    finals = [t.job.seed for t in trials if t.job.role == "final"]
    assert finals[:4] == [0, 0, 1, 1], "each row has its first seed before any has its second"
    assert len(raced(toy_file, luck=30.0)) == len(trials), "a race that is over is over"


def test_what_is_settled_gets_no_more_seeds(toy_file):
    assert {len(seeds) for seeds in seeds_by_row(raced(toy_file, luck=0.0)).values()} == {2}


BROKEN = {"result": {"constraints": [{"constraint": "max_params", "value": 9.0, "limit": 5.0}]}}


def test_a_reference_that_breaks_a_constraint_takes_no_part():
    def published(s):
        return trial(s, "reference", 90.0 + s, configuration=PUBLISHED, seed=s, **BROKEN)

    finals = rows((75.0, 80.0, 85.0))[3:]
    control = trial(90, "control", 80.0, label="raw_pixels")
    study = make_study(seeds={"from": 3, "to": 5}, constraints={"max_params": 5})
    jobs = list(race_jobs(study, "knn_top1", [*map(published, range(3)), *finals, control]))
    assert [(job.role, job.seed) for job in jobs] == [("final", 3)], "open against the control, and paired with nobody"
    low = trial(90, "control", 20.0, label="raw_pixels")
    assert list(race_jobs(study, "knn_top1", [*map(published, range(3)), *finals, low])) == []


def test_no_run_is_begun_that_the_budget_would_cut_short():
    trials = rows((75.0, 80.0, 85.0))
    spent = sum(t.device_seconds for t in trials) / 3600
    room = {0.04: 0, 0.06: 2}  # hours left; a run of the row takes 0.05
    for left, jobs in room.items():
        study = make_study(seeds={"from": 3, "to": 5}, limits={"gpu_hours": spent + left})
        assert len(list(race_jobs(study, "knn_top1", trials))) == jobs


@pytest.mark.parametrize("seeds", [{"from": 3}, {"from": 5, "to": 3}, {"from": 1, "to": 3}, {"from": "a", "to": 3}])
def test_a_race_that_makes_no_sense_is_refused_in_a_line(seeds):
    with pytest.raises(InputError, match=r"a race is written \{from: 3, to: 12\}"):
        make_study(seeds=seeds)


def test_a_dry_run_says_what_the_seeds_can_tell():
    plain, race, one = (seed_advice(make_study(seeds=seeds)) for seeds in ([0, 1, 2], {"from": 3, "to": 12}, [0]))
    assert plain["first_tells"] == plain["most_tells"] == tellable(1.0, 3)
    assert race["most"] == 12
    assert race["most_tells"] < plain["first_tells"] < race["first_tells"], "looks are paid for, seeds pay off"
    assert "12" in seed_words(race)
    assert one["first_tells"] is None


@given(
    st.lists(st.floats(70, 90), min_size=3, max_size=6),
    st.lists(st.floats(70, 90), min_size=1, max_size=4),
    st.sampled_from([1.0, 5.0]),
)
@settings(max_examples=25, deadline=None)
def test_the_race_and_the_ranking_hold_a_row_against_the_same_floor(scores, baseline, margin):
    """Where the reference breaks a constraint, the floor is the best baseline, whose runs share no seeds with rows."""
    study = make_study(seeds={"from": 3, "to": 6}, ranking={"margin": margin}, constraints={"max_params": 10})
    broken = {"constraints": [{"constraint": "max_params", "value": 20.0, "limit": 10.0}]}
    trials = [
        *(trial(s, "reference", 95.0, configuration=PUBLISHED, seed=s, result=broken) for s in range(3)),
        *(trial(10 + s, "final", v, configuration=BY_TPE, arm="tpe", seed=s) for s, v in enumerate(scores)),
        *(trial(20 + s, "random", v, configuration=BY_DARTS, seed=s) for s, v in enumerate(baseline)),
    ]
    (row,) = [row for row in rank(study, trials).rows if not row.reference]
    floor, found = _floor(study, "knn_top1", {}, _best_baseline(study, "knn_top1", trials))
    contender = Contender("row", dict(enumerate(scores)), dict(enumerate(scores)))
    assert found == margin
    assert _verdict(contender, floor, margin, study.critical) == row.verdict


def test_the_forecast_counts_the_seeds_that_may_still_be_asked_for():
    study = make_study(seeds={"from": 3, "to": 5}, arms=[])
    done = rows((75.0, 80.0, 85.0))
    assert len(list(race_jobs(study, "knn_top1", done))) == 2
    # No arm: the reference alone is expected to have its first seeds, so that the race has begun. Two more seeds each.
    profile = [trial(30, "profile", 0.0, configuration=PUBLISHED, seconds=0.0)]
    hours = forecast_hours(study, [*done, *profile])
    assert hours == pytest.approx(2 * (360 + 180) / 3600)
    settled = [*rows((60.0, 60.1, 60.2)), *profile]
    assert forecast_hours(study, settled) == 0
    fresh = done[:1]
    assert forecast_hours(study, fresh) == pytest.approx((2 + 2 + 1) * 360 / 3600), "seeds 1 and 2, 3 and 4, a profile"


def runs_of(configuration, scores, seconds, first=0, role="final", **more):
    arm = {} if role == "reference" else {"arm": "tpe"}
    return [
        trial(first + s, role, v, configuration=configuration, seed=s, seconds=t, **arm, **more)
        for s, (v, t) in enumerate(zip(scores, seconds, strict=True))
    ]


@pytest.mark.parametrize(
    ("changes", "scale", "more", "still"),
    [
        ({}, 1.0, {}, True),  # as good as the reference's per hour, give or take a sixth
        ({}, 0.01, {}, True),  # a share is a ratio, too
        ({"ranking": {"by": "gain"}}, 1.0, {}, False),  # 5 points better, whatever the hours
        ({"objective": {"kind": "pareto", "against": "hours"}}, 1.0, {}, False),
        ({}, 1.0, {"core_seconds": {"train": 360.0}}, False),  # by the CPU's clock all took the same
        ({}, 1.0, {"core_seconds": {"train": 360.0}, "device": "cuda NVIDIA H100"}, True),
    ],
)
def test_the_race_is_for_what_the_order_is_decided_on(changes, scale, more, still):
    study = make_study(seeds={"from": 3, "to": 6}, **changes)
    trials = runs_of(PUBLISHED, (80 * scale, 80.01 * scale, 80.02 * scale), (360.0,) * 3, 0, "reference", **more)
    trials += runs_of(BY_TPE, (85 * scale, 85.01 * scale, 85.02 * scale), (300.0, 360.0, 420.0), 10, **more)
    jobs = {(job.role, job.seed) for job in race_jobs(study, "knn_top1", trials)}
    assert jobs == ({("reference", 3), ("final", 3)} if still else set())


@pytest.mark.parametrize(("hours", "running", "jobs"), [(0.5, 0, 2), (0.4999, 0, 0), (0.5, 1, 0), (0.55, 1, 2)])
def test_a_run_that_fits_just_is_begun_beside_those_that_run(hours, running, jobs):
    """1620 s are spent; half an hour leaves 180, which a run of the row takes; its failure took less."""
    trials = rows((75.0, 80.0, 85.0))
    trials += [trial(30, "control", 0.0, label="slow", state="running", seconds=0.0)] * running
    trials += [trial(31, "final", 0.0, configuration=BY_TPE, seed=2, state="failed", seconds=0.0)]
    study = make_study(seeds={"from": 3, "to": 5}, limits={"gpu_hours": hours})
    assert len(list(race_jobs(study, "knn_top1", trials))) == jobs


@pytest.mark.parametrize("floor", ["none", "reference", 60.0, 80.0, 99.0])
def test_a_row_from_75_to_85_is_open_unless_the_floor_is_far_above(floor):
    study = make_study(seeds={"from": 3, "to": 5}, ranking={"floor": floor, "by": "gain"})
    trials = rows((75.0, 80.0, 85.0))
    asked = [job.seed for job in race_jobs(study, "knn_top1", trials) if job.configuration == BY_TPE]
    assert asked == ([] if floor == 99.0 else [3])
    better = runs_of(BY_DARTS, (98.5, 98.6, 98.7), (360.0,) * 3, 50)
    asked = [job.seed for job in race_jobs(study, "knn_top1", [*trials, *better]) if job.configuration == BY_TPE]
    assert asked == [], "it cannot win against what is shown to be better"


def test_of_a_loss_the_lowest_baseline_is_the_floor():
    objective = {"kind": "pareto", "against": "hours", "direction": "minimize"}
    study = make_study(seeds={"from": 3, "to": 5}, objective=objective, ranking={"margin": 0.5})
    baselines = [
        trial(0, "control", 4.0, label="pixels"),
        trial(1, "control", 3.0, label="untrained"),
        trial(2, "control", 3.2, label="untrained", seed=1),
        trial(3, "random", 5.0, label="random 0", configuration=BY_DARTS),
        trial(4, "random", 0.5, label="random 1", configuration=BY_TPE),
        trial(5, "control", 0.1, label="failed", state="failed"),
        trial(6, "proposal", 0.1, arm="tpe", configuration=BY_TPE),
    ]
    best = {number: _best_baseline(study, "knn_top1", baselines[:number]) for number in (0, 4, len(baselines))}
    assert _floor(study, "knn_top1", {}, best[7]) == ((-5.0, -0.5), 0.5), "random architectures: 2.75 in the mean"
    assert _floor(study, "knn_top1", {}, best[4]) == ((-3.0, -3.2), 0.5)
    assert _floor(study, "knn_top1", {}, best[0]) == (None, 0.0)
    own = Contender("reference", {0: -2.0, 1: -3.0}, {})
    assert _floor(study, "knn_top1", own.quality, []) == ({0: -2.0, 1: -3.0}, 0.5)
    number = make_study(objective=objective, ranking={"floor": 2.5})
    assert _floor(number, "knn_top1", own.quality, []) == ((-2.5,), 1.0)


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("apart", [0.0, 1.5])
def test_a_race_may_be_ranked_before_its_first_look(seeds, apart):
    """A study that runs, or whose row has lost a seed: nothing is told yet, in words and figures that exist."""
    study = make_study(seeds={"from": 3, "to": 12})
    trials = runs_of(PUBLISHED, (80.0, 80.2, 80.4), (360.0, 361.0, 362.0), 0, "reference")
    trials += runs_of(BY_TPE, [81.0 + apart * s for s in range(seeds)], (100.0,) * seeds, 10)
    ranking = rank(study, trials)
    json.dumps(ranking.to_dict(), allow_nan=False)
    said = " ".join([*spoken(ranking), *(column.cell(row) for column in columns_of(ranking) for row in ranking.rows)])
    assert not re.search(r"\b(inf|nan)\b", said)
    row = next(row for row in ranking.rows if not row.reference)
    assert seeds == 3 or row.verdict == "undecided"
    assert (row.difference.low is None) is (seeds < 3)
    assert (row.metric.low is None) is (seeds < 3)
    assert ("fewer than the race of seeds begins with" in said) is (seeds == 2)


def test_without_a_finished_reference_the_race_has_no_floor_as_the_ranking_has_none():
    """A control stands for a reference that breaks a constraint, not for one that failed."""
    lost = [trial(s, "reference", 0.0, configuration=PUBLISHED, seed=s, state="failed") for s in range(3)]
    control = [trial(9, "control", 99.0, label="pixels")]
    both = runs_of(BY_TPE, (75.0, 80.0, 85.0), (300.0, 360.0, 420.0), 10)
    both += runs_of(BY_DARTS, (76.0, 80.0, 84.0), (360.0,) * 3, 20)
    study = make_study(seeds={"from": 3, "to": 5})
    assert rank(study, [*lost, *control, *both]).floor is None
    asked = {job.configuration for job in race_jobs(study, "knn_top1", [*lost, *control, *both]) if job.role == "final"}
    assert asked == {BY_TPE, BY_DARTS}, "their order is open, and nothing is below"
