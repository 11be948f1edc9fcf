"""The answer in words: it says what is known, and nothing against the columns of its own ranking."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_study import BY_DARTS, BY_TPE, OPERATIONS, PUBLISHED, head, make_study, trial

from naslab.nas.statistics import paired_interval, ratio_interval
from naslab.nas.verdict import tellable
from naslab.runs.answer import LEAST_SAVING
from naslab.runs.beside import Neighbour
from naslab.runs.ranking import Ranking, rank


def finals(name, configuration, values, first, seconds=360.0, **more):
    role, arm = ("reference", None) if name == "reference" else ("final", name)
    return [
        trial(first + i, role, v, configuration=configuration, arm=arm, seed=i, seconds=seconds + i, **more)
        for i, v in enumerate(values)
    ]


REFERENCE = finals("reference", PUBLISHED, (80.0, 80.2, 80.4), 0)
BETTER = finals("darts", BY_DARTS, (82.0, 82.2, 82.4), 10)
CHEAPER = finals("tpe", BY_TPE, (80.1, 80.2, 80.3), 20, seconds=180.0)
BROKEN = {"constraints": [{"constraint": "max_params", "value": 771, "limit": 400}]}
RANDOM = [trial(30 + i, "random", score, seed=i) for i, score in enumerate((77.0, 77.5, 78.0))]


def ranked(*groups, **changes) -> Ranking:
    return rank(make_study(**changes), [t for group in groups for t in group])


def test_the_cheapest_that_is_as_good_comes_first_with_its_ratio():
    found = ranked(REFERENCE, BETTER, CHEAPER).answer
    assert found.sentence.startswith(f"tpe {BY_TPE.digest[:6]} is as good as the reference for 0.50 [")
    assert "(margin 1)" in found.sentence
    (cheapest,), (best,) = found.of("cheapest"), found.of("best")
    assert cheapest.value.mean == pytest.approx(0.5, abs=0.01)
    assert best.row == BY_DARTS.digest
    assert best.value.mean == pytest.approx(2.0)
    assert "2.00 higher" in best.text


@pytest.mark.parametrize(("hours", "told"), [(0.97, False), (0.93, True)])
def test_a_saving_within_what_hours_vary_by_is_none(hours, told):
    """However narrow its interval over seeds is: they share the machine's load of that hour."""
    as_good = finals("tpe", BY_TPE, (80.1, 80.2, 80.3), 20, seconds=360.0 * hours)
    assert bool(ranked(REFERENCE, as_good).answer.of("cheapest")) is told


def test_a_saving_that_its_interval_does_not_show_is_none():
    """.87 in the mean, and no more than by .95 surely: one of several rows with equal hours looks like this by luck."""
    as_good = finals("tpe", BY_TPE, (80.1, 80.2, 80.3), 20, seconds=360.0)
    uneven = [
        replace(t, seconds={"train": 360.0 * share}) for t, share in zip(as_good, (0.91, 0.87, 0.83), strict=True)
    ]
    ratio = ratio_interval(*({t.job.seed: sum(t.seconds.values()) for t in group} for group in (uneven, REFERENCE)))
    assert 1 - LEAST_SAVING < ratio.high < 1
    assert not ranked(REFERENCE, uneven).answer.of("cheapest")


@pytest.mark.parametrize(
    ("groups", "changes", "expected"),
    [
        ([], {}, "No configuration has finished yet"),
        ([REFERENCE], {}, "Only the reference has finished"),
        (
            [REFERENCE, finals("tpe", BY_TPE, (70.0, 70.1, 70.2), 10)],
            {},
            "Keep the reference: nothing else is as good as the floor of 80.20",
        ),
        (
            [REFERENCE, finals("tpe", BY_TPE, (80.0, 82.0, 79.0), 10)],
            {},
            "Keep the reference for now: nothing else is shown",
        ),
        (
            [REFERENCE, finals("tpe", BY_TPE, (80.0, 80.2, 80.4), 10)],
            {},
            f"Keep the reference: tpe {BY_TPE.digest[:6]} is as good within 1, but not shown to be better, or cheaper",
        ),
        ([finals("tpe", BY_TPE, (80.0, 80.1), 10)], {}, "The reference has no finished run. tpe"),
    ],
)
def test_the_headline_claims_no_more_than_the_data(groups, changes, expected):
    assert ranked(*groups, **changes).answer.sentence.startswith(expected)


def test_what_stays_open_says_what_would_settle_it():
    (still,) = ranked(REFERENCE, finals("tpe", BY_TPE, (80.0, 82.0, 79.0), 10)).answer.of("open")
    told, more = re.search(
        r"tells differences of about ([\d.]+); (\d+) more seeds each would tell 1\.", still.text
    ).groups()
    assert float(told) > 1
    assert int(more) > 3
    alone = ranked(finals("reference", PUBLISHED, (80.0,), 0), finals("tpe", BY_TPE, (99.0,), 10))
    assert "With one seed nothing can be told apart" in alone.answer.of("open")[0].text


def test_what_stays_open_is_told_by_its_own_seeds_not_by_those_of_what_is_settled():
    """As after a race, which gives further seeds to the open rows alone."""
    reference = finals("reference", PUBLISHED, (80.0, 80.2, 80.4, 80.1, 80.3), 0)
    settled = finals("tpe", BY_TPE, (70.0, 70.2), 10)
    (still,) = ranked(reference, settled, finals("darts", BY_DARTS, (80.0, 82.0, 79.0, 81.0, 78.5), 20)).answer.of(
        "open"
    )
    assert "With 5 seeds the study tells" in still.text


def test_a_search_is_held_against_random_architectures_and_its_own_cost():
    search = [trial(50, "proposal", 70.0, arm="tpe", seconds=3600.0, configuration=head("elu"), rungs=(70.0,))]
    (gained,) = ranked(REFERENCE, CHEAPER, RANDOM, search).answer.of("search")
    assert gained.value.mean == pytest.approx(80.2 - 77.5)
    assert "took 1 CPU hours, as much as 20 runs" in gained.text
    (unknown,) = ranked(REFERENCE, CHEAPER, search).answer.of("search")
    assert "luck cannot be ruled out" in unknown.text


def test_a_search_is_not_held_against_runs_too_short_for_the_clock():
    search = [trial(50, "proposal", 70.0, arm="tpe", seconds=3600.0, configuration=head("elu"), rungs=(70.0,))]
    free = [replace(t, seconds={"train": 0.0}) for t in CHEAPER]
    (gained,) = ranked(REFERENCE, free, RANDOM, search).answer.of("search")
    assert gained.text.endswith("; its search took 1 CPU hours.")


@pytest.mark.parametrize("trained", [True, False])
def test_a_control_as_good_as_the_best_is_said_and_a_trained_one_called_trained(trained):
    control = [trial(60, "control", 82.3, label="scratch", result={"trained": trained})]
    (found,) = ranked(REFERENCE, BETTER, control).answer.of("control")
    assert ("which is trained too" in found.text) is trained
    assert ranked(REFERENCE, BETTER, [trial(60, "control", 10.0, label="pixels")]).answer.of("control") == ()


def test_a_row_over_fewer_seeds_is_said():
    lost = trial(40, "final", 0.0, state="failed", configuration=BY_TPE, arm="tpe", seed=1, error="the disk is full")
    found = ranked(REFERENCE, [CHEAPER[0], CHEAPER[2], lost])
    assert found.failures[:1] == (
        f"final {BY_TPE.digest[:6]}: 1 of 3 runs failed (trial 40: the disk is full); it stands on 2.",
    )
    assert found.answer.of("failed")[0].text == found.failures[0]
    lost = trial(0, "reference", 0.0, state="failed", configuration=PUBLISHED, error="the disk is full")
    said = ranked([lost], CHEAPER)
    assert any("no finished run, so there is no floor" in line for line in said.failures)


HALF = finals("tpe", BY_TPE, (80.1, 80.2, 80.3), 20, seconds=180.0)


@pytest.mark.parametrize(
    ("floor", "groups", "sentence", "kinds"),
    [
        (75.0, [REFERENCE, HALF], f"tpe {BY_TPE.digest[:6]} is as good as the floor of 75.00 for 0.50 [", {"cheapest"}),
        (90.0, [REFERENCE, BETTER], "Nothing is as good as the floor of 90.00", set()),
        (81.8, [REFERENCE, finals("darts", BY_DARTS, (82.0, 82.2, 82.4), 10, seconds=720.0)],
         "The reference is below the floor of 81.80 knn_top1. darts", {"best"}),
        ("none", [REFERENCE, HALF], "Nothing else is shown to be better than the reference; without a floor", set()),
        ("none", [REFERENCE, BETTER], f"darts {BY_DARTS.digest[:6]} is better than the reference", {"best"}),
    ],
)  # fmt: skip
def test_a_floor_of_its_own_is_what_a_row_is_as_good_as(floor, groups, sentence, kinds):
    """Where nothing was tested, nothing is said to have failed the test; what is below the floor is not praised."""
    found = ranked(*groups, ranking={"floor": floor, "margin": 0.5}).answer
    assert found.sentence.startswith(sentence)
    assert {finding.kind for finding in found.findings} & {"cheapest", "best"} == kinds


def test_what_a_column_does_not_show_is_not_said():
    """Two seeds are shared, by which the row is cheaper and better; over all its seeds it is dearer and worse."""
    reference = finals("reference", PUBLISHED, (80.0, 80.2), 0)
    row = finals("tpe", BY_TPE, (81.0, 81.2), 10, seconds=180.0) + [
        trial(20 + s, "final", 60.0, configuration=BY_TPE, arm="tpe", seed=s, seconds=3600.0) for s in (5, 6, 7)
    ]
    found = ranked(reference, row)
    assert found.rows[0].verdict == "meets"
    assert not found.answer.of("cheapest")
    assert not found.answer.of("best")


def test_a_small_metric_is_said_with_as_many_decimals_as_its_margin_has():
    loss = {"objective": {"direction": "minimize"}, "ranking": {"by": "gain", "margin": 1e-5}}
    reference = finals("reference", PUBLISHED, (0.00120, 0.00121, 0.00122), 0)
    found = ranked(reference, finals("tpe", BY_TPE, (0.00110, 0.00111, 0.00112), 10), **loss)
    (best,) = found.answer.of("best")
    assert "of 0.001110 is 0.000100 lower [-0.000100, -0.000100]" in best.text
    assert "80.20 knn_top1" in str(ranked(REFERENCE, finals("tpe", BY_TPE, (70.0, 70.1), 10)).answer.sentence)


@pytest.mark.parametrize("floor", ["given", "baseline"])
def test_what_would_settle_an_open_row_is_told_by_the_floor_that_it_is_open_against(floor):
    """A number has no spread, so that the row's own is that of the difference; runs of a baseline add theirs."""
    row = finals("tpe", BY_TPE, (78.0, 82.0, 80.0), 10)
    told = {
        "given": ranked(finals("reference", PUBLISHED, (90.0, 99.0, 93.0), 0), row, ranking={"floor": 80.0}),
        "baseline": ranked(
            finals("reference", PUBLISHED, (80.0, 90.0, 70.0), 0, result=BROKEN), row,
            [trial(30 + i, "random", score, seed=i) for i, score in enumerate((78.0, 82.0, 80.0))],
            constraints={"max_params": 400},
        ),
    }[floor]  # fmt: skip
    assert told.floor_of == {"given": "given", "baseline": "random architectures"}[floor]
    (still,) = told.answer.of("open")
    deviation = 2.0 if floor == "given" else 2.0 * math.sqrt(2)
    assert f"With 3 seeds the study tells differences of about {tellable(deviation, 3):.2g}" in still.text


BESIDE = make_study(name="theirs")


def test_the_reference_of_a_study_beside_is_one_to_choose():
    """Systems of different spaces are different studies: their published settings are rivals."""
    theirs = finals("reference", PUBLISHED, (85.0, 85.2, 85.4), 0, seconds=180.0)
    ranking = rank(make_study(), REFERENCE, [Neighbour(BESIDE, tuple(theirs))])
    (cheapest,), (best,) = ranking.answer.of("cheapest"), ranking.answer.of("best")
    assert cheapest.text == ranking.answer.sentence
    for finding in (cheapest, best):
        assert finding.text.startswith("theirs: reference (published nasiam)")
    worse = finals("reference", PUBLISHED, (70.0, 70.2, 70.4), 0, seconds=180.0)
    said = rank(make_study(), REFERENCE, [Neighbour(BESIDE, tuple(worse))]).answer.sentence
    assert said.startswith("Keep the reference: nothing else is as good")


UNSURE = finals("reference", PUBLISHED, (79.0, 80.2, 81.5), 0)
BELOW = finals("reference", PUBLISHED, (70.0, 70.2, 70.4), 0)
REACHES = finals("darts", BY_DARTS, (80.6, 80.8, 81.0), 10, seconds=720.0)
FAILS = finals("darts", BY_DARTS, (70.0, 70.2, 70.4), 10, seconds=720.0)
OPEN = finals("tpe", BY_TPE, (79.0, 80.2, 81.5), 20, seconds=720.0)


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([UNSURE, REACHES], "The reference is not shown to be as good as the floor of 80.20 knn_top1. darts"),
        ([BELOW, REACHES], "The reference is below the floor of 80.20 knn_top1. darts"),
        (
            [UNSURE, FAILS],
            "Nothing is shown to be as good as the floor of 80.20 knn_top1; more seeds may show it for ref",
        ),
        ([UNSURE], "Nothing is shown to be as good as the floor of 80.20 knn_top1; more seeds may show it for ref"),
        (
            [BELOW, OPEN],
            "Nothing is shown to be as good as the floor of 80.20 knn_top1; more seeds may show it for tpe",
        ),
        ([BELOW, FAILS], "Nothing is as good as the floor of 80.20"),
        ([BELOW], "Nothing is as good as the floor of 80.20"),
        ([finals("reference", PUBLISHED, (80.0, 80.2, 80.4), 0)], "Only the reference has finished"),
    ],
)
def test_a_reference_that_is_not_shown_to_reach_a_given_floor_is_not_one_to_keep(groups, sentence):
    assert ranked(*groups, ranking={"floor": 80.2}).answer.sentence.startswith(sentence)


def test_a_control_that_any_configuration_is_shown_to_beat_is_not_held_against_all():
    """The best mean is too noisy to be above it; the reference, with little spread, is."""
    noisy = finals("darts", BY_DARTS, (70.0, 84.1, 99.3), 10)
    control = [trial(60, "control", 75.0, label="pixels")]
    assert not ranked(REFERENCE, noisy, control).answer.of("control")
    assert ranked(noisy, control).answer.of("control")
    high = [trial(60, "control", 80.3, label="pixels")]
    assert ranked(REFERENCE, noisy, high).answer.of("control")


def test_seeds_that_are_not_shared_do_not_make_a_selected_row_better():
    """Of five equal rows one is picked: its interval is widened for their number, in pairs or not."""
    heads = [head("relu", predictor=(*("relu",) * k, *("silu",) * (4 - k))) for k in range(5)]
    for first, values in ((0, (81.2, 81.1, 81.1)), (5, (80.9, 81.1, 81.3))):
        rows = [
            trial(10 + 3 * k + i, "final", v, configuration=one, arm="tpe", seed=first + i, seconds=360.0)
            for k, one in enumerate(heads)
            for i, v in enumerate(values)
        ]
        alone = ranked(REFERENCE, rows[:3]).rows
        assert next(row for row in alone if not row.reference).difference.low > 0, "by its own interval it is better"
        assert not ranked(REFERENCE, rows).answer.of("best")


def test_a_long_front_is_named_by_its_ends():
    heads = {head(*(OPERATIONS[i // 7**k % 7] for k in range(6))) for i in range(40)}
    rows = [
        trial(10 + 2 * k + i, "final", 60.0 + k + 0.1 * i, configuration=one, arm="tpe", seed=i, seconds=100.0 + k)
        for k, one in enumerate(sorted(heads, key=lambda one: one.digest))
        for i in range(2)
    ]
    found = ranked(rows, objective={"kind": "pareto", "against": "hours"})
    front = [row for row in found.rows if row.rank == 1]
    assert len(front) == len(heads)
    assert found.answer.sentence.count("(") == 4
    assert f", {len(heads) - 4} more, {front[-1].name} (" in found.answer.sentence


def test_a_huge_metric_is_no_row_of_digits():
    loss = {"objective": {"direction": "minimize"}, "ranking": {"by": "gain"}}
    found = ranked(finals("reference", PUBLISHED, (3e30, 3.1e30, 3.2e30), 0),
                   finals("tpe", BY_TPE, (1e3, 1.1e3, 1.2e3), 10), **loss)  # fmt: skip
    assert "is 3.1e+30 lower [-3.34" in found.answer.sentence
    assert "1100.00" in found.answer.sentence


@pytest.mark.parametrize("margin", [0.0, 5.0])
def test_a_margin_that_says_nothing_of_the_metric_takes_no_decimals_from_it(margin):
    reference = finals("reference", PUBLISHED, (0.00120, 0.00121, 0.00122), 0)
    better = finals("tpe", BY_TPE, (0.00130, 0.00131, 0.00132), 10)
    (best,) = ranked(reference, better, ranking={"margin": margin}).answer.of("best")
    assert "of 0.001310 is 0.000100 higher" in best.text


def test_what_no_number_of_seeds_would_settle_is_said():
    (still,) = ranked(REFERENCE, finals("tpe", BY_TPE, (40.0, 80.0, 120.0), 10)).answer.of("open")
    assert still.text.endswith("; 1,000 seeds each would not tell 1.")


@st.composite
def studies(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    trials, sigma = [], draw(st.sampled_from([0.05, 0.5, 2.0]))
    for k in range(draw(st.integers(1, 6))):
        configuration = PUBLISHED if k == 0 else head("relu", "silu", "elu", predictor=("relu",) * k)
        seconds, gain = 3600 * rng.uniform(0.4, 1.6), (0 if k == 0 else rng.uniform(-3, 3))
        for seed in range(draw(st.integers(1, 5))):
            trials.append(
                trial(len(trials), "reference" if k == 0 else "final", 80 + gain + sigma * rng.normal(), seed=seed,
                      seconds=seconds * rng.uniform(0.95, 1.05), configuration=configuration,
                      arm=None if k == 0 else "tpe")
            )  # fmt: skip
    return trials


@given(
    studies(),
    st.sampled_from(["maximize", "minimize"]),
    st.sampled_from([None, 0.0, 0.5, 3.0]),
    st.sampled_from(["reference", "reference", "none", 79.0, 82.0]),
)
@settings(max_examples=150, deadline=None)
def test_the_answer_never_contradicts_the_columns(trials, direction, margin, floor):
    asked = {"margin": margin, "by": "gain" if direction == "minimize" else "score", "floor": floor}
    ranking = rank(make_study(objective={"direction": direction}, ranking=asked), trials)
    sign = ranking.objective.sign
    rows = {row.configuration.digest: row for row in ranking.rows}
    reference = ranking.reference
    for finding in ranking.answer.findings:
        row = rows.get(finding.row)
        if finding.kind == "cheapest":
            assert row.verdict == "meets"
            assert row.rank is not None
            assert row.difference.low > -ranking.margin
            assert finding.value.high < 1
            assert row.device_hours.mean < reference.device_hours.mean
        elif finding.kind == "best":
            assert row.verdict in {"reference": ["meets"], "none": [None]}.get(floor, ["meets", "undecided"])
            assert sign * (row.metric.mean - reference.metric.mean) > 0
            difference = paired_interval(row.metrics, reference.metrics).scaled(sign)
            assert finding.value == difference
            assert difference.low > 0
        elif finding.kind == "per_hour":
            same = [r for r in ranking.rows if r.verdict in (None, "meets")]
            assert row.score.mean == max(r.score.mean for r in same)
    if not ranking.answer.of("cheapest") and not ranking.answer.of("best"):
        assert not re.search(" is as good as the .* for ", ranking.answer.sentence)
        assert " is better than " not in ranking.answer.sentence
    for row in ranking.rows:
        if row.verdict == "below":
            assert row.rank is None
            assert row.difference.high < -ranking.margin
        if row.verdict == "undecided":
            assert row.rank is not None, "no row is dropped by its mean"
    order = [row.verdict for row in ranking.rows if row.verdict]
    assert order == sorted(order, key=["meets", "undecided", "below"].index)
