"""What counts as tried, spent and open, attempt by attempt."""

import math

import pytest
from inline import TOY

from naslab.runs.past import Past, last_score, proposal_index
from naslab.runs.study import parse_study
from naslab.runs.trial import Job, RungRecord, Trial

GOOD, POOR = ["good"] * 4, ["poor"] * 4


@pytest.fixture(scope="module")
def study():
    return parse_study(TOY, "test")


def proposal(study, index, cell=GOOD):
    configuration = study.search_space.configuration({"head": "cell", "cell": cell})
    return Job(f"proposal/tpe/{index}", "proposal", f"tpe {index}", index, configuration, "tpe")


def rungs(*scores):
    return tuple(RungRecord(epoch, float(epoch), {"score": score}) for epoch, score in enumerate(scores, 1))


@pytest.mark.parametrize(
    ("state", "at_rungs", "scores", "expected"),
    [
        ("complete", (1.0, 2.0), {"validation_score": 3.0}, 3.0),
        ("complete", (1.0, 2.0), {"score": 9.0}, 2.0),  # a search sees no test score
        ("pruned", (1.0,), {}, 1.0),
        ("interrupted", (1.0, 0.0), {}, 0.0),
        ("failed", (1.0,), {"validation_score": 3.0}, None),
        ("timed_out", (1.0,), {}, None),
        ("complete", (), {}, None),
        ("complete", (math.nan,), {}, None),
        ("complete", (1.0,), {"validation_score": math.inf}, None),
    ],
)
def test_a_search_knows_the_validation_score_or_else_the_last_rungs(study, state, at_rungs, scores, expected):
    assert last_score(Trial(0, proposal(study, 0), state, rungs(*at_rungs), scores=scores), "score") == expected


def test_a_job_is_open_until_an_attempt_at_it_has_ended_by_itself(study):
    job, other = proposal(study, 3), proposal(study, 4, POOR)
    past = Past(study, "score")
    assert past.is_open(job.key)
    past.take(Trial(0, job, "running"))
    assert not past.is_open(job.key)
    assert list(past.running) == [0]
    past.take(Trial(0, job, "interrupted", cause="worker"))
    assert past.is_open(job.key)
    assert (past.to_repeat("tpe", "proposal"), past.running) == ([past.trials[0]], {})
    past.take(Trial(1, other, "interrupted", cause="driver"))
    assert [t.number for t in past.to_repeat("tpe", "proposal")] == [0, 1], "in the order of their attempts"
    past.take(Trial(2, job, "running"))
    assert [t.number for t in past.to_repeat("tpe", "proposal")] == [1]
    past.take(Trial(2, job, "failed"))
    assert not past.is_open(job.key)
    assert past.begun["tpe"] == 3
    assert past.made("tpe", "proposal") == {job.key: past.trials[2], other.key: past.trials[1]}
    forgiving = Past(study, "score", past.trials.values(), frozenset({2}))
    assert [t.number for t in forgiving.to_repeat("tpe", "proposal")] == [1, 2]
    assert (past.to_repeat("evolution", "proposal"), past.spent("evolution", "proposal")) == ([], (0.0, 0))


def test_only_what_has_ended_is_spent(study):
    past = Past(study, "score")
    past.take(Trial(0, proposal(study, 0), "running", seconds={"train": 5.0}))
    assert past.spent("tpe", "proposal") == (0.0, 0)
    past.take(Trial(0, proposal(study, 0), "pruned", seconds={"train": 5.0}))
    past.take(Trial(1, proposal(study, 1), "interrupted", seconds={"train": 2.0}))
    assert past.spent("tpe", "proposal") == (7.0, 2)


def test_observations_stand_in_the_order_of_proposals_whatever_ends_first(study):
    past = Past(study, "score")
    for number, index in enumerate((0, 1, 2)):
        past.take(Trial(number, proposal(study, index, (GOOD, POOR, GOOD)[index]), "running"))
    assert past.observations("tpe") == []
    assert len(past.tried("tpe")) == 2, "what runs is tried"
    past.take(Trial(2, proposal(study, 2), "complete", rungs(3.0)))
    past.take(Trial(0, proposal(study, 0), "failed", rungs(1.0)))
    past.take(Trial(1, proposal(study, 1, POOR), "interrupted", rungs(2.0), cause="driver"))
    assert [one.value for one in past.observations("tpe")] == [None, 2.0, 3.0]
    past.take(Trial(3, proposal(study, 1, POOR), "running"))
    assert [one.value for one in past.observations("tpe")] == [None, 3.0], "it runs again"
    past.take(Trial(3, proposal(study, 1, POOR), "complete", rungs(4.0)))
    assert [one.value for one in past.observations("tpe")] == [None, 4.0, 3.0]
    assert proposal_index("proposal/an/arm/12") == 12


def test_whose_last_attempt_was_short_of_memory_runs_alone(study):
    past, key = Past(study, "score"), proposal(study, 0).key
    past.take(Trial(0, proposal(study, 0), "interrupted", cause="memory"))
    past.take(Trial(1, proposal(study, 0), "running"))
    assert past.out_of_memory == {key}
    past.take(Trial(1, proposal(study, 0), "interrupted", cause="driver"))
    assert past.out_of_memory == set()
