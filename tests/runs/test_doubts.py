"""Each reason not to trust the hours as they stand is said in a line of its own, and none where there is none."""

from dataclasses import replace

import pytest
from synthetic_study import BY_TPE, PROVENANCE, PUBLISHED, make_study, trial

from naslab.runs.beside import Neighbour
from naslab.runs.ranking import rank

POLICY = {"precision": "float32", "memory_format": "contiguous", "compile": False}
ADAPTED = {"adaptation": {**POLICY, "precision": "bfloat16"}}


def run(number: int, seed: int, *, wall: float = 360.0, core: float | None = 350.0, threads: int = 1, **changes):
    """A final run; core seconds in proportion over its phases."""
    found = trial(number, "final", 80.0 + seed, arm="tpe", seed=seed, configuration=BY_TPE, seconds=wall, **changes)
    shares = {} if core is None else {phase: core * s / wall for phase, s in found.seconds.items()}
    return replace(found, core_seconds=shares, threads=threads)


def doubts(*trials) -> str:
    return "\n".join(rank(make_study(), trials).doubts)


def test_runs_alike_leave_no_doubt():
    assert doubts(run(0, 0), run(1, 1)) == ""


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (
            (run(0, 0), run(1, 1, core=700.0, threads=2)),
            "ran with 1 and 2 threads: hours of rows with different threads are not",
        ),
        ((run(0, 0), run(1, 1, wall=180.0, device_share=0.5)), "ran with 1 and 2 slots a device"),
        ((run(0, 0), run(1, 1, core=None)), "have no CPU clock (an earlier version ran them): hours are wall hours"),
        ((run(0, 0, wall=500.0), run(1, 1)), "1 of 2 runs waited for their cores"),
        (
            (run(0, 0, result={"policy": POLICY}), run(1, 1, result={"policy": {**POLICY, "precision": "bfloat16"}})),
            "trained by different policies (1 in float32, 1 in bfloat16)",
        ),
        (
            (run(0, 0, result={"policy": POLICY}), run(1, 1, result={"policy": POLICY, "earlier_policies": ADAPTED})),
            "trained by different policies (1 in float32, 1 in float32 with adaptation in bfloat16)",
        ),
    ],
)
def test_a_reason_to_doubt_is_said(trials, said):
    assert said in doubts(*trials)
    assert doubts(*trials).count("\n") == 0


def test_core_hours_of_several_threads_that_waited_are_doubted_too():
    """Threads of one run wait for one another, which the CPU clock counts in part."""
    alone = doubts(run(0, 0, wall=500.0), run(1, 1))
    assert alone.endswith("trial 0. Wall hours say little.")
    together = doubts(run(0, 0, wall=500.0, core=700.0, threads=2), run(1, 1, core=700.0, threads=2))
    assert "nor do core hours where a run has several threads: use a slot for each core" in together


@pytest.mark.parametrize(("hours", "said"), [(1.5, True), (0.5, False)])
def test_hours_against_the_counted_cost_are_said(hours, said):
    """The row with half of the FLOPs should not take more hours than the reference, beyond the interval."""
    reference = [
        trial(i, "reference", 80.0, configuration=PUBLISHED, seed=i, seconds=360.0 + i, threads=1) for i in range(3)
    ]
    other = [run(3 + i, i, wall=360.0 * hours + i, core=None) for i in range(3)]
    counted = [
        trial(6, "profile", 0.0, configuration=PUBLISHED, result=cost(2e9)),
        trial(7, "profile", 0.0, configuration=BY_TPE, result=cost(1e9)),
    ]
    found = doubts(*reference, *other, *counted)
    assert ("counts 0.50 times the FLOPs of" in found) is said
    assert (f"takes {hours:.2f} times its hours" in found) is said


def cost(flops: float) -> dict:
    return {"profile": {"flops": {"training_step": flops}, "provenance": PROVENANCE}}


@pytest.mark.parametrize(
    ("seconds", "threads", "said"),
    [((360.0, 720.0), (1, 1), True), ((360.0, 720.0), (1, 2), False), ((360.0, 0.0), (1, 1), False)],
)
def test_only_hours_that_can_be_compared_are_held_against_counted_costs(seconds, threads, said):
    """Hours of other threads cannot be, and a run too short for its clock has none."""
    trials = [
        trial(3 * k + s, ("reference", "final")[k], 80.0 + s, configuration=(PUBLISHED, BY_TPE)[k], seed=s,
              arm=(None, "tpe")[k], seconds=seconds[k], threads=threads[k])
        for k in range(2) for s in range(3)
    ]  # fmt: skip
    counted = [
        trial(6, "profile", 0.0, configuration=PUBLISHED, result=cost(2e9)),
        trial(7, "profile", 0.0, configuration=BY_TPE, result=cost(1e9)),
    ]
    assert ("counts 0.50 times the FLOPs of" in doubts(*trials, *counted)) is said


def test_trials_of_a_study_beside_are_doubted_as_its_own():
    """Both studies count their trials from 0: number 1 waited there, and here it is no run of a row."""
    own = [run(0, 0), replace(run(1, 1, wall=900.0), job=replace(run(1, 1).job, role="proposal")), run(2, 2)]
    theirs = [run(0, 0, wall=360.0), run(1, 1, wall=500.0)]
    found = rank(make_study(), own, [Neighbour(make_study(name="theirs"), tuple(theirs))]).doubts
    assert found == ("theirs: 1 of 2 runs waited for their cores (wall time above core time per thread by a fifth): "
                     "trial 1. Wall hours say little.",)  # fmt: skip
    two = tuple(replace(t, threads=2, core_seconds={}) for t in theirs)
    (clocks, threads) = rank(make_study(), own, [Neighbour(make_study(name="theirs"), two)]).doubts
    assert "Some trials have no CPU clock" in clocks
    assert "ran with 1 and 2 threads" in threads


def test_hours_of_studies_side_by_side_are_by_one_clock():
    """Core hours where all have that clock, and else of all on the wall: half an hour is no hour of the other."""
    own = [run(s, s, wall=720.0, core=360.0) for s in range(3)]
    for core, clock, hours in ((360.0, "core", 0.1), (None, "wall", 0.2)):
        theirs = tuple(run(s, s, wall=720.0, core=core) for s in range(3))
        ranking = rank(make_study(), own, [Neighbour(make_study(name="theirs"), theirs)])
        assert ranking.clock == clock
        assert [row.device_hours.mean for row in ranking.rows] == [pytest.approx(hours)] * 2


def test_recipes_of_two_studies_are_not_held_against_counted_costs():
    """The other's runs may have more epochs: that they take longer says nothing about a step."""
    own = [run(s, s, core=None) for s in range(3)]
    theirs = [trial(s, "reference", 80.0, configuration=PUBLISHED, seed=s, seconds=720.0 + s) for s in range(3)]
    own.append(trial(6, "profile", 0.0, configuration=BY_TPE, result=cost(2e9)))
    theirs.append(trial(6, "profile", 0.0, configuration=PUBLISHED, result=cost(1e9)))
    neighbour = Neighbour(make_study(name="theirs"), tuple(theirs))
    assert not any("disagree" in line for line in rank(make_study(), own, [neighbour]).doubts)
