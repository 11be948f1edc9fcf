from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_study import BY_DARTS, BY_TPE, METRIC, PUBLISHED, head, make_study, make_trials, search_result, trial

from naslab.errors import InputError
from naslab.runs.ranking import rank
from naslab.runs.trial import Trial

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def test_rows_are_grouped_named_and_ordered():
    ranking = rank(make_study(), make_trials())
    darts, reference, tpe = ranking.rows
    assert (darts.configuration, reference.configuration, tpe.configuration) == (BY_DARTS, PUBLISHED, BY_TPE)
    assert darts.name == f"darts {BY_DARTS.digest[:6]}"
    assert reference.name.startswith("reference (published nasiam)")
    assert [row.rank for row in ranking.rows] == [1, 2, None]
    assert darts.seeds == (0, 1, 2)
    assert darts.trials == (11, 15, 19)


def test_columns_follow_their_formulas():
    ranking = rank(make_study(), make_trials())
    darts, reference, _ = ranking.rows
    hours = [s / 3600 for s in (350, 351, 352)]
    metrics = [81.8, 82.0, 82.2]
    assert darts.metric.mean == pytest.approx(82.0)
    assert darts.metric.high == pytest.approx(82.0 + 4.302653 * 0.2 / 3**0.5, rel=1e-6)
    assert darts.device_hours.mean == pytest.approx(sum(hours) / 3)
    assert darts.score.mean == pytest.approx(sum(m / h for m, h in zip(metrics, hours, strict=True)) / 3)
    assert darts.search_hours == pytest.approx(720 / 3600)
    assert darts.gain is not None
    assert darts.gain.mean == pytest.approx(2.0 / (720 / 3600 + 351 / 3600))
    assert reference.gain is None
    assert ranking.floor == pytest.approx(80.0)


def test_search_hours_charge_failed_pruned_and_killed_proposals():
    tpe = rank(make_study(), make_trials()).rows[-1]
    assert tpe.search_hours == pytest.approx(5 * 180 / 3600)


def test_hours_to_floor_use_validation_scores_of_rungs():
    darts, reference, tpe = rank(make_study(), make_trials()).rows
    assert darts.hours_to_floor is not None
    assert darts.hours_to_floor.mean == pytest.approx(0.9 * 351 * 3 / 4 / 3600)  # third of four rungs: 80.5 >= 79.5
    assert reference.hours_to_floor is not None
    assert reference.hours_to_floor.mean == pytest.approx(0.9 * 361 / 3600)
    assert tpe.hours_to_floor is None


def test_the_reference_reaches_its_own_bar_though_its_worse_seed_does_not():
    trials = [
        trial(s, "reference", 80.0, configuration=PUBLISHED, seed=s, rungs=(70.0, 79.0 + s)) for s in range(3)
    ] + [trial(9, "final", 80.0, configuration=BY_DARTS, arm="darts", rungs=(80.0, 60.0))]
    rows = {row.configuration: row for row in rank(make_study(), trials).rows}
    reference, darts = rows[PUBLISHED].hours_to_floor, rows[BY_DARTS].hours_to_floor
    assert reference is not None
    assert reference.mean == pytest.approx(0.9 * 0.1)
    assert darts is not None
    assert darts.mean == pytest.approx(0.9 * 0.1 / 2)


def test_one_seed_separates_nothing():
    trials = [
        trial(0, "reference", 50.0, configuration=PUBLISHED),
        trial(1, "final", 90.0, configuration=BY_DARTS, arm="darts"),
        trial(2, "final", 70.0, configuration=BY_TPE, arm="tpe"),
    ]
    rows = rank(make_study(), trials).rows
    assert [row.rank for row in rows] == [1, 1, 1]
    assert rows[0].metric.low is None
    assert rows[0].reference, "it alone is known to meet its floor"
    assert [row.verdict for row in rows] == ["meets", "undecided", "undecided"]
    assert rows[1].configuration == BY_DARTS


def test_competition_ranks_skip_after_a_shared_rank():
    def row(first: int, configuration, scores) -> list[Trial]:
        return [
            trial(first + s, "final", score, configuration=configuration, arm="tpe", seed=s)
            for s, score in enumerate(scores)
        ]

    trials = [
        *row(0, head("relu"), (80.0, 81.0, 82.0)),
        *row(3, head("silu"), (80.1, 80.9, 81.9)),
        *row(6, head("elu"), (60.0, 60.5, 61.0)),
    ]
    rows = rank(make_study(ranking={"floor": "none"}), trials).rows
    assert [row.rank for row in rows] == [1, 1, 3]


def test_repeats_of_a_seed_are_one_observation():
    trials = [
        trial(0, "final", 80.0, configuration=BY_DARTS, arm="darts", seed=0),
        trial(1, "final", 82.0, configuration=BY_DARTS, arm="tpe", seed=0),
    ]
    (row,) = rank(make_study(), trials).rows
    assert row.seeds == (0,)
    assert row.metric.mean == 81.0
    assert row.metric.low is None
    assert row.name.startswith("darts + tpe ")
    assert row.trials == (0, 1)


def test_an_arm_that_found_what_another_had_retrained_is_named_and_charged():
    searches = [
        trial(0, "search", 0.0, arm="darts", seconds=720.0, result=search_result()),
        trial(1, "proposal", 90.0, arm="tpe", seconds=180.0, configuration=BY_DARTS, rungs=(90.0,)),
        trial(2, "final", 80.0, arm="darts", configuration=BY_DARTS),
    ]
    (row,) = rank(make_study(), searches).rows
    assert row.arms == ("darts", "tpe")
    assert row.search_hours == pytest.approx(900 / 3600)


def test_a_reference_that_an_arm_found_needs_no_search():
    trials = [
        trial(0, "proposal", 90.0, arm="tpe", seconds=180.0, configuration=PUBLISHED, rungs=(90.0,)),
        trial(1, "reference", 80.0, configuration=PUBLISHED),
    ]
    (row,) = rank(make_study(), trials).rows
    assert row.arms == ("tpe",)
    assert row.search_hours == 0
    assert row.name.startswith("reference (published nasiam) + tpe ")


def test_only_complete_trials_of_ranked_roles_count():
    trials = [
        trial(0, "final", 80.0, configuration=BY_DARTS, arm="darts"),
        trial(1, "final", 0.0, configuration=BY_TPE, arm="tpe", state="failed"),
        trial(2, "proposal", 99.0, configuration=head("elu"), arm="tpe"),
    ]
    assert [row.configuration for row in rank(make_study(), trials).rows] == [BY_DARTS]


@pytest.mark.parametrize(("floor", "ranks"), [("none", [1, 2, 3]), (80.0, [1, 2, None]), (99.0, [None] * 3)])
def test_floor_lists_what_is_below_without_a_rank(floor, ranks):
    ranking = rank(make_study(ranking={"floor": floor}), make_trials())
    assert [row.rank for row in ranking.rows if row.rank is None] == [r for r in ranks if r is None]


def test_empty_ledger_gives_an_empty_ranking():
    ranking = rank(make_study(), [trial(0, "control", 70.0, label="raw_pixels")])
    assert ranking.rows == ()
    assert ranking.floor is None
    assert ranking.controls[0].name == "raw_pixels"


def test_carried_seconds_belong_to_the_run_and_not_to_the_spend():
    resumed = trial(0, "final", 80.0, configuration=BY_DARTS, arm="darts", carried_seconds={"train": 360.0})
    ranking = rank(make_study(), [resumed])
    assert ranking.rows[0].device_hours.mean == pytest.approx(0.2)
    assert sum(ranking.phases.values()) == pytest.approx(0.1)


def test_gpu_hours_are_named_by_the_device():
    trials = [trial(i, "final", 80.0, configuration=BY_DARTS, seed=i, device=f"cuda:{i}") for i in range(2)]
    assert rank(make_study(), trials).cost_unit == "gpu_hours"
    assert rank(make_study(), make_trials()).cost_unit == "cpu_hours"


def test_mixed_devices_are_refused_by_name():
    mixed = [*make_trials(), trial(40, "proposal", 70.0, arm="tpe", device="cuda NVIDIA H100")]
    with pytest.raises(InputError, match=r"cpu: trials 0, 1, 2.*cuda NVIDIA H100: trials 40"):
        rank(make_study(), mixed)


def test_a_trial_that_failed_before_its_device_had_a_name_mixes_nothing():
    named = [replace(t, device="cpu: Some Processor") for t in make_trials()]
    early = trial(40, "proposal", 0.0, arm="tpe", state="failed", device="cpu")
    assert rank(make_study(), [*named, early]).device == "cpu: Some Processor"


def test_mixed_metrics_are_refused():
    other = trial(40, "final", 70.0, configuration=head("elu"), result={"metric": "linear_top1"})
    with pytest.raises(InputError, match=r"different metrics.*knn_top1.*linear_top1"):
        rank(make_study(), [*make_trials(), other])
    scoreless = replace(make_trials()[10], scores={"loss": 1.0})
    with pytest.raises(InputError, match="has no score 'knn_top1'; its scores: loss"):
        rank(make_study(), [scoreless])


def test_profiles_without_provenance_are_refused():
    bare = trial(40, "profile", 0.0, configuration=BY_TPE, result={"profile": {"parameters": 3}})
    with pytest.raises(InputError, match="trial 40: its profile has no provenance"):
        rank(make_study(), [*make_trials(), bare])


def test_document_meets_its_schema():
    document = json.loads(json.dumps(rank(make_study(), make_trials()).to_dict()))
    jsonschema.validate(document, json.loads((SCHEMAS / "rank.json").read_text()))
    assert document["arms"][1] == {
        "arm": "tpe",
        "device_hours": pytest.approx((5 * 180 + 3 * 341) / 3600),
        "search_hours": pytest.approx(0.25),
        "trials": {"complete": 5, "failed": 1, "interrupted": 1, "pruned": 1},
    }
    charged = sum(t.device_seconds for t in make_trials()) / 3600
    assert sum(arm["device_hours"] for arm in document["arms"]) == pytest.approx(charged)
    assert sum(document["phase_hours"].values()) == pytest.approx(charged)


scores = st.lists(st.floats(1, 100), min_size=1, max_size=3)


@st.composite
def ledgers(draw) -> list[Trial]:
    trials: list[Trial] = []
    for k in range(draw(st.integers(1, 5))):
        configuration = head("relu", "silu", "elu", predictor=("relu",) * k)
        for seed, score in enumerate(draw(scores)):
            seconds = draw(st.floats(10, 1e5))
            role = "reference" if k == 0 else "final"
            arm = None if k == 0 else "tpe"
            trials.append(
                trial(len(trials), role, score, seconds=seconds, seed=seed, configuration=configuration, arm=arm)
            )
    return trials


@given(ledgers(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_the_ledger_does_not_matter(trials, random):
    shuffled = list(trials)
    random.shuffle(shuffled)
    assert rank(make_study(), shuffled) == rank(make_study(), trials)


@given(ledgers(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_dominated_row_changes_no_other_membership(trials, data):
    before = rank(make_study(), trials)
    over = data.draw(st.sampled_from(before.rows))
    worse = trial(
        1000,
        "final",
        over.metric.mean - 0.5,
        seconds=over.device_hours.mean * 3600 + 1,
        configuration=head("hardswish"),
        arm="tpe",
    )
    after = {row.configuration: row.pareto for row in rank(make_study(), [*trials, worse]).rows}
    assert not after.pop(head("hardswish"))
    assert after == {row.configuration: row.pareto for row in before.rows}


@given(ledgers(), st.sampled_from([0.25, 2.0, 64.0]))
@settings(max_examples=60, deadline=None)
def test_scaling_all_hours_scales_scores_and_keeps_ranks(trials, factor):
    def slower(t: Trial) -> Trial:
        return replace(t, seconds={phase: s * factor for phase, s in t.seconds.items()})

    before, after = rank(make_study(), trials), rank(make_study(), [slower(t) for t in trials])
    for a, b in zip(before.rows, after.rows, strict=True):
        assert b.score.mean == pytest.approx(a.score.mean / factor)
        assert (b.rank, b.pareto, b.metric, b.configuration) == (a.rank, a.pareto, a.metric, a.configuration)


@given(ledgers())
@settings(max_examples=60, deadline=None)
def test_ranks_are_competition_ranks_above_the_floor(trials):
    ranking = rank(make_study(), trials)
    ranks = [row.rank for row in ranking.rows if row.rank is not None]
    assert all(r == (ranks[i - 1] if i and r == ranks[i - 1] else i + 1) for i, r in enumerate(ranks))
    assert any(row.pareto for row in ranking.rows)
    assert ranking.metric == METRIC
