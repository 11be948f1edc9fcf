"""Columns whose value decides something, each against its definition."""

from dataclasses import replace

import pytest
from synthetic_study import BY_DARTS, BY_TPE, METRIC, PUBLISHED, head, make_study, make_trials, trial

from naslab.errors import InputError
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
    ranking = rank(study, [*trials, trial(20, "control", 50.0, label="pixels")])
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


def test_the_base_of_the_gain_is_the_reference_whoever_had_it_run_and_no_proposal():
    trials = [
        trial(0, "reference", 80.0, configuration=PUBLISHED, seed=0),
        trial(1, "final", 82.0, configuration=PUBLISHED, seed=1, arm="tpe"),
        trial(2, "proposal", 99.0, configuration=PUBLISHED, seed=0, arm="tpe"),
        *seeds_of(BY_DARTS, (83.0, 85.0), arm="darts", first=3),
    ]
    rows = {row.configuration: row for row in rank(make_study(), trials).rows}
    gain = rows[BY_DARTS].gain
    assert gain.mean == gain.low == gain.high == pytest.approx(3.0 / 0.1), "in pairs: 3 for either seed"
    assert rows[PUBLISHED].gain is None
    unpaired = rank(make_study(), [t for t in trials if t.number != 1]).rows
    gain = next(row for row in unpaired if row.configuration == BY_DARTS).gain
    assert (gain.mean, gain.low) == (pytest.approx(4.0 / 0.1), None), "one run of the reference has no spread"


def test_without_a_base_of_the_gain_the_order_is_the_metrics_and_nothing_is_told_apart():
    by_gain = {"by": "gain", "gain_over": "not measured"}
    rows = rank(make_study(ranking=by_gain), make_trials()).rows
    assert [(row.configuration, row.score, row.gain) for row in rows[:2]] == [
        (BY_DARTS, None, None), (PUBLISHED, None, None)
    ]  # fmt: skip
    assert [row.rank for row in rows] == [1, 1, None]
    loss = {"direction": "minimize"}
    rows = rank(make_study(ranking={**by_gain, "floor": "none"}, objective=loss), make_trials()).rows
    assert [row.configuration for row in rows] == [BY_TPE, PUBLISHED, BY_DARTS]


def test_rows_below_the_floor_of_a_loss_stand_by_the_metric():
    trials = (
        seeds_of(PUBLISHED, (0.5, 0.5), "reference", None)
        + seeds_of(BY_TPE, (4.0, 4.0), first=10)
        + seeds_of(BY_DARTS, (3.0, 3.0), first=20)
    )
    objective = {"kind": "pareto", "against": "hours", "direction": "minimize"}
    rows = rank(make_study(objective=objective), trials).rows
    assert [row.configuration for row in rows] == [PUBLISHED, BY_DARTS, BY_TPE]
    assert [row.score for row in rows] == [None] * 3, "a loss per hour means nothing"


@pytest.mark.parametrize(("threads", "ranks"), [((1, 1), [1, 2]), ((1, 2), [1, 1])])
def test_hours_of_different_threads_tell_nothing_apart(threads, ranks):
    trials = seeds_of(PUBLISHED, (80.0, 80.1), "reference", None, threads=threads[0])
    trials += seeds_of(BY_DARTS, (90.0, 90.1), first=5, seconds=36.0, threads=threads[1])
    rows = rank(make_study(), trials).rows
    assert [(row.configuration, row.rank) for row in rows] == list(zip((BY_DARTS, PUBLISHED), ranks, strict=True))
    assert [row.threads for row in rows] == [threads[1:], threads[:1]]


@pytest.mark.parametrize("lowest", [0.0, 0.5])
def test_a_metric_below_one_may_be_a_ratio_to_hours_and_one_of_zero_may_not(lowest):
    trials = seeds_of(PUBLISHED, (lowest, 0.9), "reference", None)
    if lowest:
        assert rank(make_study(), trials).rows[0].score.mean == pytest.approx(0.7 / 0.1)
        return
    with pytest.raises(InputError, match=r"is 0 \(reference .*, seed 0\): a ratio to hours needs a positive metric"):
        rank(make_study(), trials)


def test_what_takes_no_time_is_cheapest_and_has_no_gain_per_hour():
    free = seeds_of(BY_DARTS, (79.9, 79.9), first=5, seconds=0.0)
    trials = [*seeds_of(PUBLISHED, (80.0, 80.0), "reference", None), *free]
    rows = rank(make_study(objective={"kind": "pareto", "against": "hours"}), trials).rows
    assert [(row.configuration, row.rank, row.gain is None) for row in rows] == [
        (BY_DARTS, 1, True),
        (PUBLISHED, 1, True),
    ]
    by_gain = rank(make_study(ranking={"by": "gain"}), trials).rows
    assert by_gain[-1].score.mean < 0, "worse than the reference, however short"


def test_a_resumed_run_reaches_the_floor_after_what_it_went_on_from():
    trials = seeds_of(PUBLISHED, (80.0, 80.0), "reference", None, rungs=(70.0, 79.0))
    resumed = trial(
        9, "final", 80.0, configuration=BY_DARTS, arm="darts", rungs=(79.0,), carried_seconds={"train": 36.0}
    )
    rows = {row.configuration: row for row in rank(make_study(), [*trials, resumed]).rows}
    assert rows[BY_DARTS].hours_to_floor.mean == pytest.approx((36 + 0.9 * 360) / 3600)


def test_the_floor_is_no_better_than_itself():
    reference = rank(make_study(), make_trials()).reference
    assert (reference.difference.mean, reference.difference.low, reference.difference.high) == (0.0, 0.0, 0.0)


def test_of_several_baselines_the_best_is_the_floor_also_of_a_loss():
    trials = seeds_of(PUBLISHED, (0.2, 0.2), "reference", None, result=BROKEN) + seeds_of(BY_DARTS, (0.1, 0.1), first=5)
    trials += [trial(10, "control", 4.0, label="pixels"), trial(11, "control", 3.0, label="untrained")]
    objective = {"kind": "pareto", "against": "hours", "direction": "minimize"}
    ranking = rank(make_study(objective=objective, constraints={"max_params": 400}), trials)
    assert (ranking.floor, ranking.floor_of) == (3.0, "untrained")


def test_a_baseline_says_whether_something_was_trained():
    trials = [*make_trials(), trial(50, "control", 74.0, label="scratch", result={"trained": True})]
    ranking = rank(make_study(), trials)
    assert {one.name: one.trained for one in ranking.controls} == {
        "raw_pixels": None,
        "untrained": None,
        "scratch": True,
    }
    assert ranking.random.trained is True
    assert ranking.random.trials == (13, 17, 21)


def test_a_control_that_failed_or_has_another_score_is_none():
    failed = replace(trial(50, "control", 0.0, label="failed", state="failed"), scores={METRIC: 99.0})
    other = replace(trial(51, "control", 0.0, label="other"), scores={"loss": 1.0})
    ranking = rank(make_study(), [*make_trials(), failed, other])
    assert [control.name for control in ranking.controls] == ["raw_pixels", "untrained"]


def test_what_breaks_a_constraint_is_refused_and_no_row_though_it_was_trained():
    trials = seeds_of(PUBLISHED, (80.0, 81.0), "reference", None)
    trials += seeds_of(BY_TPE, (90.0, 91.0), first=5, result=BROKEN)
    trials += [trial(9, "random", 0.0, configuration=head("elu"), state="pruned", result=BROKEN)]
    ranking = rank(make_study(constraints={"max_params": 400}), trials)
    assert [row.configuration for row in ranking.rows] == [PUBLISHED]
    names = {one.configuration: one.name for one in ranking.refused}
    assert names == {BY_TPE: f"tpe {BY_TPE.digest[:6]}", head("elu"): f"random {head('elu').digest[:6]}"}
    assert all(check.broken for one in ranking.refused for check in one.breaks)
    assert all(one.breaks for one in ranking.refused)


def test_flops_of_a_training_step_and_costs_are_those_of_the_profile_if_it_has_them():
    rows = {row.configuration: row for row in rank(make_study(), make_trials()).rows}
    assert (rows[PUBLISHED].training_flops, rows[BY_DARTS].training_flops) == (370_000_000, None)
    for missing, against in (("latency_ms", "latency"), ("flops", "flops")):
        trials = make_trials()
        trials[-1].result["profile"][missing] = None
        ranking = rank(make_study(objective={"kind": "pareto", "against": against}), trials)
        assert {row.cost for row in ranking.rows} == {None}


def test_a_point_of_a_grid_is_named_after_its_values_and_a_finalist_after_its_arm():
    chain = ["relu"] * 6
    grid = {"engine": "grid", "name": "heads", "vary": {"projector": [chain]},
            "base": {"head": "cell", "predictor": ["silu"] * 4}}  # fmt: skip
    search = {"engine": "optuna", "name": "tpe", "sampler": "tpe", "trials": 6}
    study = make_study(arms=[grid, search])
    (point,) = study.grids["heads"]
    trials = seeds_of(point, (80.0, 81.0), arm="heads") + seeds_of(BY_TPE, (80.0, 81.0), first=5)
    names = {row.configuration: row.name for row in rank(study, trials).rows}
    assert names[point] == f"heads projector={'·'.join(chain)} {point.digest[:6]}"
    assert names[BY_TPE] == f"tpe {BY_TPE.digest[:6]}"


def test_the_bar_of_the_hours_is_the_references_last_score_or_the_number_given():
    at = {floor: rank(make_study(ranking={"floor": floor}), make_trials()) for floor in ("reference", 70.0, "none")}
    hours = {
        floor: next(row for row in ranking.rows if row.configuration == BY_DARTS).hours_to_floor
        for floor, ranking in at.items()
    }
    assert hours["none"] is None
    assert hours["reference"].mean == pytest.approx(0.9 * 351 * 3 / 4 / 3600)
    assert hours[70.0].mean == pytest.approx(0.9 * 351 * 1 / 4 / 3600), "70 at its first rung"
    assert {floor: ranking.floor_of for floor, ranking in at.items()} == {
        "reference": "reference", 70.0: "given", "none": None
    }  # fmt: skip
