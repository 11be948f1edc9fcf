"""The ledger: what was recorded is what is read, by whoever opens the storage, whatever moment a driver died at."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest

from naslab.errors import InputError
from naslab.runs.ledger import ASIDE, Ledger
from naslab.runs.storage_url import no_study
from naslab.runs.study import load_study
from naslab.runs.trial import Job, RungRecord

URL = "sqlite:///runs.db"
COMPLETE = {
    "seconds": {"train": 2.0},
    "device": "cpu",
    "scores": {"score": 7.0, "validation_score": 6.0},
    "result": {"metric": "score"},
    "rungs": [{"epoch": 1, "device_seconds": 1.0, "scores": {"score": 5.0}}],
}


@pytest.fixture
def study(toy_file):
    return load_study(toy_file())


def proposal(study, number=0):
    configuration = study.search_space.configuration({"head": "cell", "cell": ["good"] * 4})
    return Job(f"proposal/tpe/{number}", "proposal", f"tpe {number}", 3, configuration, "tpe", pending=(4, 5))


def reference(study):
    return Job("reference/x/seed0", "reference", "reference", 0, study.search_space.reference)


CONTROL = Job("control/nothing/seed0", "control", "nothing", 0)


def optuna_trials(name):
    return optuna.load_study(study_name=name, storage=URL).trials


def test_what_a_driver_wrote_is_what_any_reader_finds(study):
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        ids = [ledger.begin(job) for job in (CONTROL, reference(study), proposal(study))]
        assert [number for _, number in ids] == [0, 1, 2]
        ledger.finish(ids[2][0], "complete", COMPLETE)
        ledger.finish(ids[0][0], "failed", {"error": "no", "seconds": {"other": 1.0}})
        within = ledger.trials()
    read = Ledger.open("runs.db", "toy")
    assert read.trials() == within == ledger.trials()
    assert [(t.number, t.state) for t in within] == [(0, "failed"), (1, "running"), (2, "complete")]
    done = within[2]
    assert (done.job, done.scores, done.seconds) == (proposal(study), COMPLETE["scores"], {"train": 2.0})
    assert done.rungs == (RungRecord(1, 1.0, {"score": 5.0}),)
    assert within[0].job == CONTROL
    assert (within[0].error, within[0].device) == ("no", ""), "what was not told has its default"
    assert [(trial.number, outcome) for _, trial, outcome in read.running()] == [(1, None)]
    assert [t.user_attrs["role"] for t in optuna_trials("toy")] == ["proposal"]
    assert [t.user_attrs["role"] for t in optuna_trials("toy" + ASIDE)] == ["control", "reference"]
    frame = read.frame()
    assert frame["parameter_head"].tolist()[1:] == ["published", "cell"]
    assert frame["seconds_train"].tolist()[2] == 2.0


def test_an_outcome_without_its_end_is_told_and_the_trial_still_runs(study):
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        trial_id, _ = ledger.begin(proposal(study))
        ledger._storage.set_trial_user_attr(trial_id, "outcome", {**COMPLETE, "state": "complete"})
    read = Ledger.open("runs.db", "toy")
    assert [t.state for t in read.trials()] == ["running"]
    ((_, trial, outcome),) = read.running()
    assert (trial.number, outcome["scores"]) == (0, COMPLETE["scores"])


def test_what_was_done_before_the_answer_got_lost_is_not_done_twice(study):
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        # A server that breaks off just after each request: it is asked again.
        ledger.patience = lambda action: (action(False), action(True))[1]
        trial_id, number = ledger.begin(proposal(study))
        assert number == 0
        ledger.finish(trial_id, "complete", COMPLETE)
        ledger.begin(reference(study))
        del ledger.patience
        ledger.patience = lambda action: action(False)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            ledger.finish(trial_id, "failed", {})
    assert [len(optuna_trials(name)) for name in ("toy", "toy" + ASIDE)] == [1, 1]
    assert [t.state for t in Ledger.open("runs.db", "toy").trials()] == ["complete", "running"]


def test_a_front_has_two_values_where_it_is_searched_and_one_beside(toy_file):
    arm = {"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 4}
    study = load_study(toy_file(arms=[arm], objective={"kind": "pareto", "against": "flops"}))
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        ledger.name_metric("score")
        outcome = {**COMPLETE, "result": {"metric": "score", "costs": {"flops": 12.0}}}
        ledger.finish(ledger.begin(proposal(study))[0], "complete", outcome)
        ledger.finish(ledger.begin(reference(study))[0], "complete", COMPLETE)
    assert optuna_trials("toy")[0].values == [6.0, 12.0], "validation score and cost"
    assert optuna_trials("toy" + ASIDE)[0].values == [7.0]
    names = {name: optuna.load_study(study_name=name, storage=URL).metric_names for name in ("toy", "toy" + ASIDE)}
    assert names == {"toy": ["score", "flops"], "toy" + ASIDE: ["score"]}


def test_records_of_earlier_versions_are_read(study):
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        trial_id, _ = ledger.begin(proposal(study))
        told = ledger._storage.get_trial(trial_id).user_attrs["job"]
        old = {key: value for key, value in told.items() if key != "pending"}
        ledger._storage.set_trial_user_attr(trial_id, "job", {**old, "informed_by": [1]})
        ledger._storage.set_trial_user_attr(trial_id, "outcome", {"state": "killed", "seconds": {"train": 1.0}})
        ledger._storage.set_trial_state_values(trial_id, optuna.trial.TrialState.FAIL)
    (trial,) = Ledger.open("runs.db", "toy").trials()
    assert (trial.state, trial.job.pending, trial.job.key) == ("interrupted", (), "proposal/tpe/0")


def test_options_without_effect_that_an_earlier_version_kept_are_read(study):
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        recorded = ledger.attribute("naslab")
        recorded["study"]["arms"][0]["reduction"] = 4  # of a pruner that the arm does not have: refused in a file
        ledger.set_attribute("naslab", recorded)
    assert Ledger.open("runs.db", "toy").study.arms[0].name == "tpe"


def test_a_database_file_does_not_say_where_its_folder_lies_so_that_both_may_be_moved(study):
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        pass
    assert "files" not in ledger.attribute("naslab")
    Path("elsewhere").mkdir()
    Path("runs.db").rename("elsewhere/runs.db")
    assert Ledger.open("elsewhere/runs.db", "toy").files.resolve() == Path("elsewhere/toy").resolve()


def test_only_who_holds_a_study_writes_to_it(study):
    ledger = Ledger.start("runs.db", study)
    for write in (lambda: ledger.begin(CONTROL), lambda: ledger.set_attribute("a", 1)):
        with pytest.raises(RuntimeError, match="only the driver that holds the study"):
            write()
    assert (ledger.attribute("a"), ledger.sessions(), ledger.trials()) == (None, [], [])
    with ledger.hold(2):
        ledger.set_attribute("a", {"b": 1})
        assert ledger.attribute("a") == {"b": 1}
        with pytest.raises(InputError, match="works on this study"), Ledger.start("runs.db", study).hold(1):
            pass
    (session,) = ledger.sessions()
    assert session["slots"] == 2
    with pytest.raises(RuntimeError):
        ledger.begin(CONTROL)


def test_a_study_that_is_done_says_so_until_it_is_held_again(study):
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        ledger.mark_done()
    assert {path.name for path in Path().glob("runs.db*")} == {"runs.db"}, "the log is in the file"
    assert ledger.attribute("naslab")["done"] is True
    with Ledger.start("runs.db", study).hold(1):
        pass
    assert "done" not in Ledger.open("runs.db", "toy").attribute("naslab")


def test_a_driver_that_died_while_it_made_the_study_is_followed_by_one_that_completes_it(study):
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        pass
    storage = optuna.storages.get_storage(URL)
    for name in ("toy", "toy" + ASIDE):
        storage.delete_study(storage.get_study_id_from_name(name))
    optuna.create_study(study_name="toy", storage=URL)  # so far it came: the session is there, the owner is not
    with pytest.raises(InputError, match="was not made by naslab"):
        Ledger.open("runs.db", "toy")
    with Ledger.start("runs.db", study).hold(1):
        pass
    assert Ledger.open("runs.db", "toy").study.document() == study.document()


def test_what_is_no_study_of_ours_is_refused_by_name(study):
    with pytest.raises(InputError):
        Ledger.open("runs.db", "toy")
    assert not Path("runs.db").exists(), "reading makes no storage"
    optuna.create_study(study_name="theirs", storage=URL)
    for open_ledger in (
        lambda: Ledger.open("runs.db", "theirs"),
        lambda: Ledger.start("runs.db", study.model_copy(update={"name": "theirs"})),
    ):
        with pytest.raises(InputError, match="study 'theirs' was not made by naslab; choose another name"):
            open_ledger()
    ledger = Ledger.start("runs.db", study)
    with ledger.hold(1):
        pass
    with pytest.raises(InputError, match=re.escape(f"{'toy' + ASIDE!r} is a part of study 'toy'; name that")):
        Ledger.open("runs.db", "toy" + ASIDE)
    with pytest.raises(InputError, match=r"no study named 'other'; it has theirs, toy$"):
        Ledger.open("runs.db", "other")
    many = str(no_study("runs.db", "tyo", [*(f"{number:02}" for number in range(30)), "toy"]))
    assert "it has toy, 00, 01, " in many
    assert many.endswith(", 18 and 11 more")
    recorded = ledger.attribute("naslab")
    for change, words in (
        ({"deleting": True}, "is being deleted"),
        ({"schema": "naslab.ledger/9"}, "this version reads"),
    ):
        ledger._storage.set_study_user_attr(ledger._homes()[0], "naslab", {**recorded, **change})
        with pytest.raises(InputError, match=words):
            Ledger.open("runs.db", "toy")


def test_a_storage_without_a_study_says_that_it_has_none(study):
    optuna.storages.get_storage(URL)
    with pytest.raises(InputError, match=r"no study named 'toy'; it has none$"):
        Ledger.open("runs.db", "toy")
