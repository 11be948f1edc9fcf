"""Columns whose value decides something, each against its definition."""

from dataclasses import replace

import pytest
from synthetic_study import BY_DARTS, BY_TPE, METRIC, PUBLISHED, head, make_study, make_trials, trial

from naslab.runs.ranking import rank

BROKEN = {"constraints": [{"constraint": "max_params", "value": 771, "limit": 400}]}


def seeds_of(configuration, scores, role="final", arm="tpe", first=0, **given):
    return [
        trial(first + s, role, score, configuration=configuration, seed=s, arm=arm, **given)
        for s, score in enumerate(scores)
    ]


def test_on_a_cpu_hours_are_of_cores_and_those_on_the_wall_stand_beside():
    on_cores = [replace(t, core_seconds={p: s / 2 for p, s in t.seconds.items()}, threads=1) for t in make_trials()]
    darts = rank(make_study(), on_cores).rows[0]
    assert darts.device_hours.mean == pytest.approx(351 / 2 / 3600)
    assert darts.wall_hours.mean == pytest.approx(351 / 3600)
    assert {row.wall_hours for row in rank(make_study(), make_trials()).rows} == {None}


def test_the_order_by_gain_is_the_gain_per_hour_with_the_search():
    rows = rank(make_study(ranking={"by": "gain"}), make_trials()).rows
    darts = next(row for row in rows if row.configuration == BY_DARTS)
    assert darts.score.mean == pytest.approx(2.0 / (720 / 3600 + 351 / 3600))


@pytest.mark.parametrize(("against", "cost"), [("memory", 0.012345678), ("latency", 4.2), ("flops", 123_456_789)])
def test_a_cost_is_the_figure_of_the_profile_in_its_unit(against, cost):
    rows = rank(make_study(objective={"kind": "pareto", "against": against}), make_trials()).rows
    assert {row.configuration: row.cost for row in rows} == {PUBLISHED: cost, BY_DARTS: None, BY_TPE: None}


def test_a_profile_without_a_memory_has_no_cost():
    trials = make_trials()
    del trials[-1].result["profile"]["peak_memory_bytes"]
    rows = rank(make_study(objective={"kind": "pareto", "against": "memory"}), trials).rows
    assert {row.cost for row in rows} == {None}


def test_a_front_comes_whole_before_what_is_cheaper_on_the_next():
    third, fourth = head("elu", "relu"), head("silu", "elu")
    trials = (
        seeds_of(PUBLISHED, (70.0, 70.0), "reference", None)
        + seeds_of(third, (90.0, 90.0), first=10, seconds=3600)
        + seeds_of(fourth, (75.0, 75.0), first=20, seconds=720)
        + seeds_of(BY_TPE, (80.0, 80.0), first=30, seconds=400)
    )
    rows = rank(make_study(objective={"kind": "pareto", "against": "hours"}), trials).rows
    assert [(row.configuration, row.rank) for row in rows] == [(PUBLISHED, 1), (BY_TPE, 1), (third, 1), (fourth, 2)]


def test_random_architectures_stand_in_the_document_where_there_are_any():
    ranking = rank(make_study(), make_trials())
    assert ranking.to_dict()["random"]["metric"]["mean"] == pytest.approx(77.0)
    none = rank(make_study(), [t for t in make_trials() if t.job.role != "random"])
    assert none.to_dict()["random"] is None


def test_they_are_the_floor_where_the_reference_breaks_a_constraint_and_nothing_else_is_better():
    trials = seeds_of(PUBLISHED, (90.0, 91.0), "reference", None, result=BROKEN)
    trials += seeds_of(BY_DARTS, (80.0, 81.0), first=5)
    trials += seeds_of(head("elu"), (60.0, 62.0), "random", None, first=10)
    study = make_study(constraints={"max_params": 400})
    ranking = rank(study, trials)
    assert (ranking.floor, ranking.floor_of) == (61.0, "random architectures")
    reference = next(row for row in ranking.rows if row.reference)
    assert [check.constraint for check in reference.breaks] == ["max_params"]
    assert [row.breaks for row in ranking.rows if not row.reference] == [()]


def test_what_is_refused_is_named_after_its_arm_and_no_reference():
    trials = seeds_of(PUBLISHED, (90.0, 91.0), "reference", None)
    trials += [trial(9, "final", 0.0, configuration=BY_TPE, arm="tpe", state="pruned", result=BROKEN)]
    (refused,) = rank(make_study(constraints={"max_params": 400}), trials).refused
    assert refused.name == f"tpe {BY_TPE.digest[:6]}"


def test_only_complete_trials_with_the_metric_are_rows():
    trials = seeds_of(PUBLISHED, (80.0, 81.0), "reference", None)
    scored = replace(trial(5, "final", 0.0, configuration=BY_TPE, arm="tpe", state="failed"), scores={METRIC: 99.0})
    assert [row.configuration for row in rank(make_study(), [*trials, scored]).rows] == [PUBLISHED]
