import pytest
from inline import run_here

from naslab.errors import InputError
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank
from naslab.runs.status import status
from naslab.runs.study import load_study
from naslab.runs.warm_start import warm_starts


def study(toy_file, name, arms, **changes):
    return load_study(toy_file(name=name, seeds=[0], random_architectures=0, finalists=1, arms=arms, **changes))


def arm(name, **options):
    return {"name": name, "engine": "optuna", "sampler": "tpe", "trials": 1, **options}


def test_what_another_study_measured_is_known_recorded_and_kept(toy_file):
    points = {"cell": [["good"] * 4, ["poor"] * 4, ["fair"] * 4], "head": ["cell"]}
    theirs = run_here(
        Ledger.start("runs.db", study(toy_file, "theirs", [{"name": "g", "engine": "grid", "vary": points}]))
    )
    scores = {t.job.configuration: t.scores["validation_score"] for t in theirs.trials() if t.job.role == "final"}
    mine = run_here(Ledger.start("runs.db", study(toy_file, "mine", [arm("warm", warm_start=["theirs"]), arm("cold")])))
    known = warm_starts(mine, "score")
    assert known.keys() == {"warm"}
    told = {one.configuration: one.value for one in known["warm"]}
    assert {c: told[c] for c in scores} == scores
    assert len(told) == len(scores) + 1, "the reference, too"
    (said,) = status(mine)["warm_starts"]
    assert said == {"arm": "warm", "studies": ["theirs"], "configurations": len(told)}
    assert "Arm warm began with what theirs measured" in " ".join(rank(mine.study, mine.trials()).doubts)
    assert status(theirs)["warm_starts"] == []
    assert not [t for t in mine.trials() if t.job.role == "final" and t.job.configuration in told and t.job.arm is None]
    again = study(
        toy_file,
        "theirs",
        [
            {
                "name": "g",
                "engine": "grid",
                "vary": {**points, "cell": [*points["cell"], ["good", "good", "good", "fair"]]},
            }
        ],
    )
    run_here(Ledger.start("runs.db", again))
    assert warm_starts(Ledger.open("runs.db", "mine"), "score") == known, "taken over once"


@pytest.mark.parametrize(
    ("other", "changes", "message"),
    [
        ("nobody", {}, "no study named 'nobody'"),
        ("theirs", {"space": {"name": "toy_space:Sized"}}, "theirs is of space toy_space:Space, not toy_space:Sized"),
    ],
)
def test_a_study_that_says_nothing_of_the_space_is_refused(toy_file, other, changes, message):
    run_here(Ledger.start("runs.db", study(toy_file, "theirs", [])))
    with pytest.raises(InputError, match=message):
        run_here(Ledger.start("runs.db", study(toy_file, "mine", [arm("warm", warm_start=[other])], **changes)))


def test_a_front_and_a_pruner_are_refused_before_anything_is_written(toy_file, tmp_path):
    front = {"kind": "pareto", "against": "hours"}
    with pytest.raises(InputError, match="pruner asha knows the score alone"):
        Ledger.start("runs.db", study(toy_file, "mine", [arm("a", pruner="asha")], objective=front))
    with pytest.raises(InputError, match=r"enqueue.0: cell"):
        Ledger.start("runs.db", study(toy_file, "mine", [arm("a", enqueue=[{"cell": ["bad"]}])]))
    assert not (tmp_path / "runs.db").exists()
