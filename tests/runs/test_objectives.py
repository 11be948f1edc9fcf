"""Objectives in a study: what proposals are told, which become finalists, and what is refused."""

import pytest
import torch
from synthetic_study import BY_DARTS, PUBLISHED, head, make_study, make_trials, trial
from test_constraints import SIZED, run

from naslab.efficiency.errors import InputError
from naslab.runs.plan import found_by, next_job, tell
from naslab.runs.ranking import rank
from naslab.runs.study import load_study

FRONT = {"kind": "pareto", "against": "hours"}
TPE = {"engine": "optuna", "name": "tpe", "sampler": "tpe", "trials": 3}


def proposals(scores_and_seconds):
    heads = [head(a, b) for a in ("relu", "silu") for b in ("elu", "identity", "avgpool")]
    return [
        trial(i, "proposal", score, arm="tpe", seconds=seconds, configuration=heads[i], rungs=(score,), seed=i)
        for i, (score, seconds) in enumerate(scores_and_seconds)
    ]


def finalists_of(study, trials):
    found = found_by(study, "knn_top1", trials)
    return {t.number for t in trials if "tpe" in found.get(t.job.configuration.digest, ())}


def test_finalists_are_the_arms_own_front():
    trials = proposals([(70, 100), (80, 200), (75, 300), (90, 900), (60, 90), (85, 400)])
    study = make_study(objective=FRONT, finalists=9)
    assert finalists_of(study, trials) == {0, 1, 3, 4, 5}
    assert finalists_of(make_study(objective=FRONT, finalists=2), trials) == {3, 4}, "both ends"
    assert finalists_of(make_study(objective=FRONT), trials) == {3}
    assert tell(study, trials[1], "knn_top1").cost == pytest.approx(200 / 3600)
    assert tell(make_study(), trials[1], "knn_top1").cost is None


def test_finalists_by_score_per_hour():
    trials = proposals([(70, 100), (80, 200), (90, 900)])
    assert finalists_of(make_study(arms=[TPE]), trials) == {2}
    assert finalists_of(make_study(arms=[{**TPE, "finalists_by": "score_per_hour"}]), trials) == {0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"kind": "pareto"}}, "pareto needs 'against': hours, latency, flops or memory"),
        ({"objective": {"against": "flops"}}, "'against' goes with kind: pareto only"),
        ({"objective": {"kind": "pareto", "against": "joules"}}, "objective.against"),
        (
            {
                "objective": FRONT,
                "arms": [{**TPE, "finalists_by": "score_per_hour"}],
            },
            "finalists_by goes with objective per_hour",
        ),
    ],
)  # fmt: skip
def test_an_objective_that_says_too_little_or_too_much_is_refused(changes, message):
    with pytest.raises(InputError) as caught:
        make_study(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gain_over_what_is_no_control_is_refused(toy_file):
    study = load_study(toy_file(ranking={"gain_over": "scratch"}))
    with pytest.raises(
        InputError, match=r"ranking.gain_over: 'scratch' is no control of this task; use nothing, chance"
    ):
        study.make_task(torch.device("cpu"))
    load_study(toy_file(ranking={"gain_over": "chance"})).make_task(torch.device("cpu"))


def test_the_gain_over_a_control_has_an_interval_and_stands_for_the_reference_too():
    ranking = rank(make_study(ranking={"gain_over": "untrained"}), make_trials())
    reference = ranking.reference
    assert reference.gain.mean == pytest.approx((80 - 72.5) / (361 / 3600))
    assert reference.gain.low < reference.gain.mean < reference.gain.high
    assert rank(make_study(ranking={"gain_over": "not measured"}), make_trials()).rows[0].gain is None


def test_ranks_are_fronts_above_the_floor_and_wait_for_profiles():
    ranking = rank(make_study(objective=FRONT), make_trials())
    assert [(row.configuration, row.rank) for row in ranking.rows[:2]] == [(BY_DARTS, 1), (PUBLISHED, 2)]
    assert ranking.rows[2].rank is None
    assert "On the front of knn_top1 against CPU hours of a run is" in ranking.answer.sentence
    waiting = rank(make_study(objective={"kind": "pareto", "against": "flops"}), make_trials())
    assert [row.rank for row in waiting.rows] == [1, None, None], "only the reference has a profile"
    assert waiting.rows[0].cost == 123_456_789


def test_a_whole_search_for_a_front(toy_file):
    """The costs of proposals are found before they are trained, charged, and told; the plan replays."""
    arm = {"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 10}
    path = toy_file(space=SIZED, arms=[arm], objective={"kind": "pareto", "against": "flops"}, seeds=[0], finalists=3,
                    random_architectures=0, ranking={"floor": "none"})  # fmt: skip
    ledger = run(path)
    trials = ledger.trials()
    for t in trials:
        if t.job.role == "proposal":
            good = t.job.configuration.chain("cell").count("good")
            assert tell(ledger.study, t, "score").cost == t.result["costs"]["flops"] == 2 * 64 * 4 * (1 + good)
            assert t.seconds["profile"] > 0
    ranking = rank(ledger.study, trials)
    assert {row.rank for row in ranking.rows} <= {1, 2, 3, 4}
    assert all(row.cost for row in ranking.rows)
    assert sum(bool(row.arms) for row in ranking.rows) <= 3
    controls = ledger.study.make_task(torch.device("cpu")).controls()
    for i in range(len(trials)):
        assert next_job(ledger.study, controls, "score", trials[:i]).job.key == trials[i].job.key
