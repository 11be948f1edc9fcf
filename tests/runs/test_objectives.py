"""Objectives in a study: what proposals are told, which become finalists, and what is refused."""

import pytest
import torch
from synthetic_study import BY_DARTS, PUBLISHED, head, make_study, make_trials, trial
from test_constraints import SIZED, run

from naslab.errors import InputError
from naslab.runs.past import Past, tell
from naslab.runs.plan import found_by, plan_next
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


def test_a_loss_is_minimised_by_search_finalists_floor_and_front():
    loss = {"objective": {"direction": "minimize"}, "ranking": {"by": "gain"}}
    trials = proposals([(0.7, 100), (0.5, 200), (0.9, 900)])
    study = make_study(arms=[TPE], **loss)
    assert finalists_of(study, trials) == {1}
    assert tell(study, trials[1], "knn_top1").value == -0.5, "samplers want more"
    rows = [
        trial(i, "reference" if k == 0 else "final", value + 0.001 * s, seed=s, arm="tpe" if k else None,
              configuration=(PUBLISHED, BY_DARTS, head("elu"))[k])
        for i, (k, value, s) in enumerate((k, v, s) for k, v in enumerate((0.5, 0.4, 0.6)) for s in range(3))
    ]  # fmt: skip
    ranking = rank(make_study(ranking={"by": "gain", "margin": 0.01}, objective=loss["objective"]), rows)
    assert [(row.configuration, row.verdict) for row in ranking.rows] == [
        (BY_DARTS, "meets"), (PUBLISHED, "meets"), (head("elu"), "below")
    ]  # fmt: skip
    assert ranking.rows[0].gain.mean > 0
    assert [row.pareto for row in ranking.rows] == [True, False, False]


def test_a_ratio_of_what_is_not_positive_is_refused_with_what_to_use_instead():
    with pytest.raises(InputError, match=r"a loss per hour would reward a large loss.*ranking\.by: gain.*pareto"):
        make_study(objective={"direction": "minimize"})
    trials = [trial(s, "reference", -0.5, configuration=PUBLISHED, seed=s) for s in range(2)]
    with pytest.raises(InputError, match=r"needs a positive metric; use ranking\.by: gain or objective\.kind: pareto"):
        rank(make_study(), trials)
    assert rank(make_study(ranking={"by": "gain"}), trials).rows[0].reference


def test_a_reference_that_breaks_a_constraint_is_no_floor_and_on_no_front():
    broken = {"constraints": [{"constraint": "max_params", "value": 771, "limit": 400}]}
    trials = [
        trial(s, "reference", 90.0 + s, configuration=PUBLISHED, seed=s, seconds=1.0, result=broken) for s in range(3)
    ]
    trials += [trial(5 + s, "final", 80.0 + s, configuration=BY_DARTS, seed=s, arm="darts") for s in range(3)]
    study = make_study(constraints={"max_params": 400})
    alone = rank(study, trials)
    assert (alone.floor, alone.floor_of) == (None, None)
    assert [(row.rank, row.pareto) for row in alone.rows] == [(1, True), (None, False)]
    assert "so there is no floor" in alone.answer.sentence
    beside = rank(study, [*trials, trial(9, "control", 60.0, label="pixels")])
    assert (beside.floor, beside.floor_of) == (60.0, "pixels")
    assert beside.rows[0].verdict == "meets"


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
        assert plan_next(Past(ledger.study, "score", trials[:i]), controls).job.key == trials[i].job.key
