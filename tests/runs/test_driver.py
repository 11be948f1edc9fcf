import errno
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console

from naslab.errors import InputError
from naslab.nas.sampling import Observation, propose
from naslab.runs.driver import run_study
from naslab.runs.faults import disk_is_full
from naslab.runs.ledger import Ledger
from naslab.runs.past import Past, last_score
from naslab.runs.plan import plan_next
from naslab.runs.progress import Progress
from naslab.runs.ranking import rank
from naslab.runs.report import build_report
from naslab.runs.spend import arm_spend
from naslab.runs.status import status
from naslab.runs.study import load_study
from naslab.search_spaces import derive_seed


def run(path, slots=2, overrides=None):
    study = load_study(path, overrides)
    ledger = Ledger.start("runs.db", study)
    run_study(ledger, slots, Progress(Console(stderr=True), quiet=True))
    return ledger


def complete(trials):
    return Counter(t.job.key for t in trials if t.state == "complete")


def test_a_whole_study(toy_file, inline):
    path = toy_file()
    ledger = run(path)
    trials = ledger.trials()
    roles = Counter(t.job.role for t in trials)
    assert (roles["control"], roles["reference"], roles["random"], roles["proposal"]) == (3, 2, 2, 7)
    assert {t.state for t in trials} == {"complete"}
    assert set(complete(trials).values()) == {1}
    for trial in trials:
        if trial.job.role == "proposal":
            assert set(trial.scores) == {"validation_score", "validation_loss"}, "a search must not see the test split"
        if trial.job.role in ("reference", "final"):
            assert (ledger.files / "trials" / trial.job.key / "model.safetensors").exists()
    document = status(ledger)
    seconds = document["device_seconds"]
    assert sum(seconds["by_phase"].values()) == pytest.approx(sum(seconds["by_state"].values()))
    assert seconds["total"] <= document["slot_seconds"]
    assert document["unaccounted"] == pytest.approx(document["slot_seconds"] - seconds["total"])
    numbers = [t.number for t in trials]
    assert [t.number for t in run(path).trials()] == numbers, "a finished study runs nothing again"
    frame = ledger.frame()
    assert len(frame) == len(trials)
    assert frame["device_seconds"].sum() == pytest.approx(seconds["total"])
    assert rank(ledger.study, trials).rows[0].metric.mean >= 20


def test_profiles_come_last_and_alone(toy_file, inline):
    roles = [t.job.role for t in run(toy_file()).trials()]
    assert "profile" not in roles[: -roles.count("profile")]
    assert roles.count("profile") == len({t for t in roles if t == "reference"}) + len(
        {t.job.configuration for t in Ledger.open("runs.db", "toy").trials() if t.job.role == "final"}
    )


def test_recorded_proposals_replay(toy_file, inline):
    ledger = run(toy_file(), slots=1)
    trials = {t.number: t for t in ledger.trials()}
    study, checked = ledger.study, 0
    for arm in study.arms:
        own = [t for t in trials.values() if t.job.arm == arm.name and t.job.role == "proposal"]
        for index, trial in enumerate(own):
            assert trial.job.pending == ()
            told = [t for t in own if t.number < trial.number]
            history = [Observation(t.job.configuration, last_score(t, "score")) for t in told]
            again = propose(arm, ledger.space, history, [], derive_seed(study.seed, arm.name, index))
            assert again == trial.job.configuration
            checked += 1
    assert checked == 7


def test_asking_again_after_any_prefix_gives_the_same_next_job(toy_file, inline):
    ledger = run(toy_file(), slots=1)
    trials = ledger.trials()
    controls = ledger.study.make_task(__import__("torch").device("cpu")).controls()
    for i in range(len(trials)):
        plan = plan_next(Past(ledger.study, "score", trials[:i]), controls)
        assert plan.job is not None
        assert plan.job.key == trials[i].job.key
    assert plan_next(Past(ledger.study, "score", trials), controls).state == "done"


def test_growing_a_study_runs_only_what_is_new(toy_file, inline):
    first = complete(run(toy_file()).trials())
    grown = run(toy_file(seeds=[0, 1, 2]))
    again = complete(grown.trials())
    assert set(again.values()) == {1}
    assert first.keys() < again.keys()
    assert any(key.startswith("reference/") and key.endswith("seed2") for key in again)


@pytest.mark.parametrize(
    ("trouble", "error"), [("raise", "ValueError: the toy broke on two lines"), ("nan", "score is nan")]
)
def test_a_failing_trial_is_recorded_and_the_study_goes_on(toy_file, inline, trouble, error):
    path = toy_file(task={"epochs": 2, "trouble": trouble})
    ledger = run(path)
    failed = [t for t in ledger.trials() if t.state == "failed"]
    assert failed
    assert {t.error for t in failed if error not in t.error} == set()
    assert all(t.device_seconds > 0 for t in failed)
    assert {t.job.seed for t in failed} == {1}
    number = len(ledger.trials())
    assert len(run(path).trials()) == number, "what failed by itself is not tried again"


def test_a_score_that_is_nan_fails_its_trial_alone(toy_file, inline):
    ledger = run(toy_file(task={"epochs": 1, "returns": "nan for some"}))
    by_state = {state: {t.job.key for t in ledger.trials() if t.state == state} for state in ("complete", "failed")}
    assert by_state["complete"]
    assert by_state["failed"]
    assert all(t.error == "evaluate: score is nan" for t in ledger.trials() if t.state == "failed")
    for trial in ledger.trials():
        if trial.job.role == "final":
            assert trial.state == "complete", "a proposal without a score is no finalist"


@pytest.mark.parametrize("returns", ["float32", "tensor"])
def test_scores_of_other_kinds_are_numbers(toy_file, inline, returns):
    arms = [{"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 3, "pruner": "median"}]
    trials = run(toy_file(task={"epochs": 2, "returns": returns}, arms=arms)).trials()
    assert {t.state for t in trials} <= {"complete", "pruned"}
    assert all(type(score) is float for t in trials for score in t.scores.values())


@pytest.mark.parametrize(
    ("returns", "words"),
    [("none", "None"), ("text", "not a number"), ("another name", "'accuracy', 'f1', but no 'score'")],
)
def test_what_is_no_score_fails_the_trial_and_names_what_came(toy_file, inline, returns, words):
    trials = run(toy_file(task={"epochs": 1, "returns": returns}, arms=[])).trials()
    failed = [t for t in trials if t.job.role == "reference"]
    assert {t.state for t in failed} == {"failed"}
    assert all(words in t.error for t in failed)


def test_the_validation_of_a_task_without_rungs_is_charged_to_evaluate(toy_file, inline):
    task = {"epochs": 1, "rungs": False, "evaluate_seconds": 0.3}
    trials = run(toy_file(task=task, arms=[], seeds=[0])).trials()
    (reference,) = [t for t in trials if t.job.role == "reference"]
    assert reference.seconds["evaluate"] >= 0.6
    assert reference.run_seconds >= 0.6


def test_a_worker_that_dies_is_replaced_and_its_trial_tried_again(toy_file, tmp_path):
    path = toy_file(
        task={"epochs": 2, "trouble": "die_once", "marker": str(tmp_path / "died")}, arms=[], random_architectures=0
    )
    trials = run(path, slots=1).trials()
    killed = [t for t in trials if t.state == "interrupted"]
    assert len(killed) == 1
    assert killed[0].cause == "worker"
    assert killed[0].device_seconds > 0
    assert killed[0].rungs[0].scores["score"] > 0
    assert complete(trials)[killed[0].job.key] == 1


def test_a_trial_that_always_dies_is_given_up(toy_file):
    path = toy_file(
        task={"epochs": 2, "trouble": "die"}, arms=[], random_architectures=0, seeds=[1], limits={"attempts": 2}
    )
    ends = [t.state for t in run(path, slots=1).trials() if t.job.role == "reference"]
    assert ends == ["interrupted", "failed"]


def test_a_task_without_epochs_is_searched_charged_ranked_and_reported(toy_file, inline):
    arms = [{"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 3, "pruner": "hyperband"}]
    path = toy_file(space={"name": "toy_space:Index"}, task={"seconds": 0.05}, arms=arms)
    ledger = run(path)
    trials = ledger.trials()
    assert {t.state for t in trials} == {"complete"}
    trained = [t for t in trials if t.job.role in ("reference", "random", "proposal", "final")]
    assert all([rung.epoch for rung in t.rungs] == [0] for t in trained)
    assert all(t.seconds["train"] > 0 and t.seconds["evaluate"] > 0 for t in trained)
    ranking = rank(ledger.study, trials)
    assert ranking.reference.hours_to_floor is not None, "the only score is the floor's"
    assert {control.name: control.trained for control in ranking.controls} == {"nothing": False, "chance": False}
    assert build_report(ledger.study, trials).answer.sentence
    assert [t.number for t in run(path).trials()] == [t.number for t in trials]


@pytest.mark.parametrize("trouble", ["input", "disk"])
def test_what_only_the_user_can_mend_stops_the_study_and_loses_nothing(toy_file, inline, trouble):
    path = toy_file(task={"epochs": 2, "trouble": trouble, "seconds": 0.05})
    with pytest.raises(InputError, match="No space left"):
        run(path)
    before = complete(Ledger.open("runs.db", "toy").trials())
    assert before
    with pytest.raises(InputError, match="No space left"):
        run(path)
    after = Ledger.open("runs.db", "toy").trials()
    assert before.items() <= complete(after).items()
    assert not any(t.state in ("running", "failed") for t in after)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
def test_a_disk_that_torch_finds_full_is_told_from_a_fault_of_the_task():
    with pytest.raises(RuntimeError) as full:
        torch.save(torch.zeros(1 << 20), "/dev/full")
    assert disk_is_full(full.value)
    assert not disk_is_full(RuntimeError("size mismatch"))
    assert not disk_is_full(PermissionError(errno.EACCES, "no"))


def test_a_file_in_a_folders_place_is_one_line_and_the_same_command_goes_on(toy_file, inline):
    path = toy_file(arms=[])
    Path("toy").touch()
    with pytest.raises(InputError, match=r"toy.*cannot be used"):
        run(path)
    Path("toy").unlink()
    assert {t.state for t in run(path).trials()} == {"complete"}


def test_pruned_proposals_are_charged_and_stop_early(toy_file, inline):
    arm = {"name": "random", "engine": "optuna", "sampler": "random", "trials": 12, "pruner": "hyperband"}
    path = toy_file(task={"epochs": 6}, arms=[arm], random_architectures=0, seeds=[0])
    ledger = run(path)
    trials = ledger.trials()
    pruned = [t for t in trials if t.state == "pruned"]
    assert pruned
    (spend,) = [s for s in arm_spend(trials) if s.arm == "random"]
    charged = sum(t.device_seconds for t in trials if t.job.role == "proposal")
    assert spend.search_hours == pytest.approx(charged / 3600)
    assert charged > sum(t.device_seconds for t in trials if t.job.role == "proposal" and t.state == "complete")
    for trial in pruned:
        assert len(trial.rungs) < 6
        assert trial.device_seconds > 0


def test_hours_bound_an_arm(toy_file, inline):
    """It stops when half of another trial of the mean length would not fit, and not before."""
    arm = {"name": "random", "engine": "optuna", "sampler": "random", "device_hours": 2.0 / 3600}
    path = toy_file(task={"epochs": 2, "seconds": 0.2}, arms=[arm], random_architectures=0, seeds=[0])
    own = [t.device_seconds for t in run(path).trials() if t.job.role == "proposal"]
    for number in range(1, len(own) + 1):
        fits = sum(own[:number]) * (1 + 0.5 / number) <= 2.0
        assert fits is (number < len(own))


def test_an_end_that_was_told_is_adopted(toy_file, inline, monkeypatch):
    """The driver dies between a trial's end and its record: first in the ledger, then in the trail alone."""
    path = toy_file(arms=[], seeds=[0, 1])
    finish, calls = Ledger.finish, []

    def die_sometimes(self, trial_id, state, outcome):
        calls.append(state)
        if len(calls) == 2:
            self._storage.set_trial_user_attr(trial_id, "outcome", {**outcome, "state": state})
        if len(calls) in (2, 4):
            raise KeyboardInterrupt
        return finish(self, trial_id, state, outcome)

    monkeypatch.setattr(Ledger, "finish", die_sometimes)
    monkeypatch.setattr("naslab.runs.driver._Driver._leave", lambda self: None)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(path, slots=1)
    trials = run(path, slots=1).trials()
    assert len(calls) > 4
    assert {t.state for t in trials} == {"complete"}
    assert set(complete(trials).values()) == {1}
    assert all(t.device_seconds > 0 for t in trials)
    assert status(Ledger.open("runs.db", "toy"))["unaccounted"] >= 0
