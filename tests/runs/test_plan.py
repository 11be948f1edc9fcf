"""The plan as a pure function: which jobs a study gets, in which order, when a budget is spent, who is a finalist."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import toy_space
from inline import TOY

from naslab.runs.past import Past
from naslab.runs.plan import arm_is_done, expected_jobs, finalists, found_by, known_jobs, plan_next
from naslab.runs.study import parse_study
from naslab.runs.trial import RungRecord, Trial
from naslab.search_spaces import Categorical

GOOD, FAIR, POOR = (["good"] * 4, ["fair"] * 4, ["poor"] * 4)
GRID = {"name": "cells", "engine": "grid", "vary": {"cell": [GOOD, POOR]}, "base": {"head": "cell"}}
TPE = {"name": "tpe", "engine": "optuna", "sampler": "random", "trials": 2}
DARTS = {"name": "darts", "engine": "differentiable", "epochs": 1, "searches": 2}
BROKEN = {"constraints": [{"constraint": "max_params", "value": 9.0, "limit": 5.0}]}


class Few(toy_space.Space):
    """Two configurations, and the reference, which no engine proposes."""

    @property
    def parameters(self):
        return (Categorical("head", ("a", "b", "published"), proposed=("a", "b")),)

    @property
    def reference(self):
        return self.configuration({"head": "published"})


@dataclass(frozen=True)
class Control:
    name: str
    seeded: bool


CONTROLS = (Control("pixels", False), Control("untrained", True))


def make(**changes):
    return parse_study({**TOY, **changes}, "test")


def cell(study, *layers):
    return study.search_space.configuration({"head": "cell", "cell": list(layers) * (4 // len(layers))})


def ended(number, job, state="complete", score=1.0, seconds=1.0, **more):
    """An end of the job with that validation score, at a rung."""
    trial = Trial(number, job, state, (RungRecord(1, seconds, {"score": score}),), {"train": seconds}, **more)
    if job.role == "search":
        # The first search finds what is good, the second what is poor; the scores say so.
        layers, found = (GOOD, 2.0) if job.key.endswith("/0") else (POOR, 1.0)
        genotype = {"head": "cell", "cell": layers}
        return replace(trial, result={"genotype": genotype, "supernet_scores": {"score": found}})
    return trial


def run_out(study, controls=(), end=ended, most=200):
    """Every trial of a study whose jobs run one after the other and end as `end` says."""
    past = Past(study, "score")
    for number in range(most):
        plan = plan_next(past, controls)
        if plan.job is None:
            assert plan.state == "done"
            return list(past.trials.values())
        past.take(Trial(number, plan.job, "running"))
        past.take(end(number, plan.job))
    raise AssertionError("the plan has no end")


def roles(trials):
    return Counter(t.job.role for t in trials)


def test_a_whole_study_job_by_job():
    study = make(arms=[DARTS, GRID], random_architectures=3, seeds=[5, 7])
    jobs = [t.job for t in run_out(study, CONTROLS)]
    good, poor = cell(study, *GOOD), cell(study, *POOR)
    reference = study.search_space.reference
    assert [(j.role, j.label, j.seed) for j in jobs[:7]] == [
        ("control", "pixels", 5), ("control", "untrained", 5), ("control", "untrained", 7),
        ("reference", "reference", 5),
        ("random", "random 0", 5), ("random", "random 1", 7), ("random", "random 2", 5),
    ]  # fmt: skip
    assert [(j.key, j.label, j.arm) for j in jobs[7:9]] == [
        ("search/darts/0", "darts search 0", "darts"), ("search/darts/1", "darts search 1", "darts")
    ]  # fmt: skip
    assert jobs[7].seed != jobs[8].seed
    finals = [(j.role, j.label, j.seed, j.configuration) for j in jobs[9:14]]
    assert finals == [
        ("final", "darts finalist", 5, good), ("final", "cells cell=poor·poor·poor·poor", 5, poor),
        ("reference", "reference", 7, reference),
        ("final", "darts finalist", 7, good), ("final", "cells cell=poor·poor·poor·poor", 7, poor),
    ], "each row's and the reference's seed before the next of any; a point that an arm found is run once"  # fmt: skip
    profiles = [(j.role, j.seed, j.configuration) for j in jobs[14:]]
    assert profiles == [("profile", 5, one) for one in (reference, good, poor)]


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": [GRID], "random_architectures": 2},
        {"arms": [{**GRID, "vary": {"cell": [GOOD, FAIR]}, "base": {}}], "random_architectures": 0},
        {"arms": [{**TPE, "trials": 5}, DARTS], "random_architectures": 3, "finalists": 2, "seeds": [0, 1, 2]},
        {"arms": [{**TPE, "trials": 1}, {**DARTS, "searches": 1}], "finalists": 3},
        {"arms": []},
    ],
)
def test_as_many_jobs_are_expected_as_come(changes):
    study = make(**changes)
    trials = run_out(study, CONTROLS, lambda number, job: ended(number, job, score=float(number)))
    found = roles(trials)
    assert expected_jobs(study, CONTROLS) == found
    known = known_jobs(study, CONTROLS)
    assert {job.key for job in known} <= {t.job.key for t in trials}
    searched = [arm for arm in study.arms if arm.engine != "grid"]
    assert sum(role in ("control", "reference", "random") for role in found.elements()) == sum(
        job.role != "final" for job in known
    )
    if not searched:
        assert len([job for job in known if job.role == "final"]) == found["final"]


def test_an_arm_that_hours_alone_limit_is_expected_to_take_an_unknown_number():
    study = make(arms=[{**TPE, "trials": None, "device_hours": 1.0}])
    assert expected_jobs(study, ())["proposal"] == 0


def test_random_architectures_differ_and_end_where_the_space_has_no_more():
    study = make(arms=[TPE], random_architectures=40)
    drawn = [job.configuration for job in known_jobs(study, ()) if job.role == "random"]
    assert len(set(drawn)) == len(drawn) == 40, "of 81"
    few = make(space={"name": "test_plan:Few"}, arms=[TPE], random_architectures=4)
    found = [job.configuration["head"] for job in known_jobs(few, ()) if job.role == "random"]
    assert sorted(found) == ["a", "b"]


def test_random_architectures_that_break_a_constraint_are_replaced_ten_times_as_often_at_most():
    def end(number, job):
        return ended(number, job, "pruned", result=BROKEN) if job.role == "random" else ended(number, job)

    study = make(arms=[TPE], random_architectures=2, constraints={"max_params": 5})
    trials = run_out(study, (), end)
    assert roles(trials)["random"] == 2 + 10 * 2
    once = run_out(study, (), lambda n, job: end(n, job) if job.label == "random 1" else ended(n, job))
    assert [t.job.label for t in once if t.job.role == "random"] == ["random 0", "random 1", "random 2"]


@pytest.mark.parametrize(
    ("seconds", "running", "hours", "spent"),
    [
        ([], 0, 1e-4, False),  # the first is begun whatever it may take
        ([], 1, 1.0, True),  # what one takes is not known before one has ended
        ([10.0], 1, 1.0, False),
        ([1000.0] * 3, 0, 1.0, False),  # 3000 s, and half of another 1000
        ([1000.0] * 3, 1, 1.0, True),  # one and a half of another: 4500
        ([1040.0] * 3, 0, 1.0, True),
        ([2400.0], 0, 1.0, False),  # 3600 fits just
        ([2400.4], 0, 1.0, True),
        ([2400.0] * 2, 0, 2.0, False),
    ],
)
def test_hours_stop_an_arm_when_half_of_another_trial_would_not_fit(seconds, running, hours, spent):
    study = make(arms=[{**TPE, "trials": None, "device_hours": hours}], random_architectures=0, seeds=[0])
    past = Past(study, "score")
    job = plan_next(past, ()).job
    past.take(ended(0, job))
    for number, taken in enumerate([*seconds, *[None] * running], 1):
        job = replace(job, key=f"proposal/tpe/{number - 1}", role="proposal", arm="tpe",
                      configuration=cell(study, "good", "poor"))  # fmt: skip
        past.take(Trial(number, job, "running") if taken is None else ended(number, job, seconds=taken))
    job = plan_next(past, ()).job
    assert (job is None or job.role != "proposal") is spent


def test_the_first_of_two_budgets_ends_an_arm():
    long = {**TPE, "trials": 3, "device_hours": 100.0}
    assert roles(run_out(make(arms=[long])))["proposal"] == 3
    short = {**TPE, "trials": 50, "device_hours": 3.4 / 3600}
    assert roles(run_out(make(arms=[short])))["proposal"] == 3, "of one second each"


@pytest.mark.parametrize("arm", [TPE, DARTS])
def test_finalists_wait_for_the_last_search(arm):
    study = make(arms=[arm], random_architectures=0, seeds=[0])
    (one,), past = study.arms, Past(study, "score")
    past.take(ended(0, plan_next(past, ()).job))
    first = plan_next(past, ()).job
    past.take(Trial(1, first, "running"))
    second = plan_next(past, ()).job
    past.take(Trial(2, second, "running"))
    assert (first.role, second.role) in {("proposal",) * 2, ("search",) * 2}
    past.take(ended(1, first))
    assert not arm_is_done(past, one)
    assert plan_next(past, ()).state == "waiting"
    past.take(ended(2, second, "interrupted", cause="driver"))
    assert not arm_is_done(past, one)
    again = plan_next(past, ()).job
    assert again == second, "it is tried again as it was"
    past.take(Trial(3, again, "running"))
    past.take(ended(3, again))
    assert arm_is_done(past, one)
    assert plan_next(past, ()).job.role == "final"


def proposals(study, *ends):
    """Trials of the arm `tpe`: of each the cell, the state and the score."""
    job = plan_next(Past(study, "score"), ()).job
    return [
        ended(n, replace(job, key=f"proposal/tpe/{n}", role="proposal", arm="tpe", configuration=cell(study, *layers)),
              state, score, **more)
        for n, (layers, state, score, more) in enumerate(ends)
    ]  # fmt: skip


def test_the_best_that_were_trained_whole_and_break_nothing_are_finalists():
    study = make(arms=[TPE], finalists=2, constraints={"max_params": 5})
    trials = proposals(
        study,
        (GOOD, "pruned", 9.0, {}),
        (("good", "poor"), "failed", 8.0, {}),
        (("poor", "good"), "complete", 7.0, {"result": BROKEN}),
        (FAIR, "complete", 2.0, {}),
        (POOR, "complete", 3.0, {}),
        (("fair", "poor"), "complete", 1.0, {}),
    )
    trials.append(replace(trials[0], number=9, job=replace(trials[0].job, key="proposal/tpe/9"), state="complete",
                          rungs=()))  # fmt: skip
    (arm,) = study.arms
    assert finalists(Past(study, "score", trials), arm) == [cell(study, *POOR), cell(study, *FAIR)]
    (grid,) = make(arms=[GRID]).arms
    sweep = make(arms=[GRID], constraints={"max_params": 5})
    broken = proposals(sweep, (GOOD, "pruned", 0.0, {"result": BROKEN}))
    assert finalists(Past(sweep, "score", broken), grid) == [cell(sweep, *POOR)]


def test_a_front_has_what_is_complete_and_has_both_figures_and_breaks_nothing():
    study = make(
        arms=[TPE], finalists=9, objective={"kind": "pareto", "against": "flops"}, constraints={"max_params": 5}
    )
    cost = {"result": {"costs": {"flops": 5.0}}}
    trials = proposals(
        study,
        (GOOD, "pruned", 9.0, cost),
        (("good", "poor"), "complete", 8.0, {}),
        (("poor", "good"), "complete", 7.0, {"result": {**cost["result"], **BROKEN}}),
        (FAIR, "complete", 2.0, cost),
        (POOR, "complete", 1.0, {"result": {"costs": {"flops": 4.0}}}),
        (("fair", "poor"), "complete", 1.5, cost),
    )
    trials.append(replace(trials[3], number=9, job=replace(trials[0].job, key="proposal/tpe/9"), rungs=()))
    (arm,) = study.arms
    assert finalists(Past(study, "score", trials), arm) == [cell(study, *FAIR), cell(study, *POOR)]


@pytest.mark.parametrize(("by", "best"), [("score", FAIR), ("score_per_hour", GOOD)])
def test_the_best_are_those_by_score_or_by_score_an_hour(by, best):
    study = make(arms=[{**TPE, "finalists_by": by}])
    trials = proposals(
        study, (GOOD, "complete", 3.0, {"seconds": 10.0}), (FAIR, "complete", 9.0, {"seconds": 100.0}),
        (POOR, "complete", 1.0, {"seconds": 5.0}),
    )  # fmt: skip
    (arm,) = study.arms
    assert finalists(Past(study, "score", trials), arm) == [cell(study, *best)]


def test_two_arms_that_found_the_same_are_both_named():
    study = make(arms=[TPE, GRID])
    trials = proposals(study, (GOOD, "complete", 1.0, {}))
    assert found_by(study, "score", trials) == {
        cell(study, *GOOD).digest: ["tpe", "cells"], cell(study, *POOR).digest: ["cells"]
    }  # fmt: skip


def test_a_search_that_failed_leaves_the_other_ones_finalist():
    def end(number, job):
        return ended(number, job, "failed") if job.key == "search/darts/0" else ended(number, job)

    study = make(arms=[DARTS], random_architectures=0)
    finals = {t.job.configuration for t in run_out(study, (), end) if t.job.role == "final"}
    assert finals == {cell(study, *POOR)}


def test_what_failed_is_not_profiled():
    def end(number, job):
        return (
            ended(number, job, "failed") if job.role in ("final", "reference") and job.seed == 0 else ended(number, job)
        )

    study = make(arms=[GRID], random_architectures=0)
    assert roles(run_out(study, (), end))["profile"] == 3, "one of two seeds is enough"
    one = make(arms=[GRID], random_architectures=0, seeds=[0])
    assert roles(run_out(one, (), end))["profile"] == 0


def test_the_arm_that_began_the_fewest_is_next():
    other = {**TPE, "name": "other"}
    study = make(arms=[{**TPE, "trials": 3}, {**other, "trials": 3}], random_architectures=0)
    arms = [t.job.arm for t in run_out(study) if t.job.role == "proposal"]
    assert arms == ["tpe", "other"] * 3
