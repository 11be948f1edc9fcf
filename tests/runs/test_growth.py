"""A space may get more choices; its old records stay readable whatever becomes of it."""

import optuna
import pytest
import toy_space

from naslab.errors import InputError
from naslab.runs.driver import run_study
from naslab.runs.ledger import Ledger
from naslab.runs.output import err
from naslab.runs.progress import Progress
from naslab.runs.ranking import rank
from naslab.runs.report import build_report
from naslab.runs.study import load_study
from naslab.search_spaces import Categorical, Float, Integer

ARM = {"name": "tpe", "engine": "optuna", "sampler": "tpe"}


def run(path):
    ledger = Ledger.start("runs.db", load_study(path))
    run_study(ledger, 1, Progress(err, quiet=True))
    return ledger.trials()


def study(toy_file, trials):
    return toy_file(arms=[{**ARM, "trials": trials}], seeds=[0], task={"epochs": 1})


def values(trials):
    return {t.number: t.job.configuration.as_dict() for t in trials if t.job.configuration is not None}


@pytest.mark.parametrize("operations", [("good", "fair", "poor", "great"), ("great", "poor", "fair", "good")])
def test_a_choice_more_goes_on_with_the_study(toy_file, inline, monkeypatch, operations):
    before = run(study(toy_file, 3))
    monkeypatch.setattr(toy_space, "OPERATIONS", operations)
    after = run(study(toy_file, 6))
    assert values(before).items() <= values(after).items()
    assert len({t.job.key for t in after if t.job.role == "proposal"}) == 6
    stored = optuna.load_study(study_name="toy", storage="sqlite:///runs.db").trials
    assert {t.distributions["cell[0]"].choices for t in stored} == {operations}
    recorded = {t.user_attrs["number"]: t.user_attrs["job"]["configuration"]["cell"] for t in stored}
    assert all(recorded[t.user_attrs["number"]] == [t.params[f"cell[{i}]"] for i in range(4)] for t in stored)


@pytest.mark.parametrize(
    "now",
    [Integer("width", 1, 9), Integer("width", 1, 8, log=True), Float("width", 0.5, 8), Categorical("width", (2, 4, 8))],
)
def test_a_number_may_become_another_kind_of_number_that_has_every_record(toy_file, inline, monkeypatch, now):
    """Optuna allows one kind a study; the records then say what the parameter is today."""
    monkeypatch.setattr(toy_space, "MORE_PARAMETERS", (Integer("width", 2, 8, step=2),))
    reference = {"head": "published", "cell": ["fair"] * 4, "width": 4}
    monkeypatch.setattr(toy_space.Space, "reference", property(lambda self: self.configuration(reference)))
    arm = {"name": "a", "engine": "optuna", "sampler": "random", "enqueue": [{"width": w} for w in (2, 8)]}
    settings = {"seeds": [0], "task": {"epochs": 1}, "random_architectures": 0}
    before = run(toy_file(arms=[{**arm, "trials": 2}], **settings))
    monkeypatch.setattr(toy_space, "MORE_PARAMETERS", (now,))
    after = run(toy_file(arms=[{**arm, "trials": 4}], **settings))
    assert values(before).items() <= values(after).items()
    assert len({t.job.key for t in after if t.job.role == "proposal"}) == 4
    stored = optuna.load_study(study_name="toy", storage="sqlite:///runs.db").trials
    assert len({str(t.distributions["width"]) for t in stored}) == 1
    assert all(t.params["width"] == t.user_attrs["job"]["configuration"]["width"] for t in stored)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MORE_PARAMETERS", (Categorical("width", (1, 2)),), "width: missing"),
        ("OPERATIONS", ("good", "poor"), "fair"),
        ("OPERATIONS", ("other",), "not allowed"),
    ],
)
def test_a_space_that_lost_its_records_is_refused_in_one_line_and_still_read(
    toy_file, inline, monkeypatch, name, value, words
):
    before = run(study(toy_file, 5))
    path = study(toy_file, 6)
    monkeypatch.setattr(toy_space, name, value)
    monkeypatch.setattr(toy_space.Space, "reference", property(lambda self: before[-1].job.configuration))
    with pytest.raises(InputError, match=f"has changed since trial .*{words}.*another name") as caught:
        run(path)
    assert "\n" not in str(caught.value)
    ledger = Ledger.open("runs.db", "toy")
    assert values(ledger.trials()) == values(before)
    assert rank(ledger.study, ledger.trials()).rows
    assert build_report(ledger.study, ledger.trials()).answer.sentence, "Optuna's plots show what the space still has"


def test_random_architectures_keep_their_seeds_when_seeds_grow(toy_file, inline):
    def random_jobs(seeds):
        arms = [{**ARM, "trials": 2}]
        trials = run(toy_file(arms=arms, seeds=seeds, task={"epochs": 1}, random_architectures=4))
        return [t.job.key for t in trials if t.job.role == "random"]

    first = random_jobs([0, 1])
    assert len(set(first)) == 4
    assert len({key.split("-")[1].split("/")[0] for key in first}) == 4, "each is another architecture"
    assert random_jobs([0, 1, 2]) == first


def test_an_arm_without_results_may_change_or_go(toy_file, inline):
    """One that could not begin, as the study that it names is not there, may be put right under the same name."""
    path = toy_file(arms=[{**ARM, "trials": 2, "warm_start": ["nobody"]}], seeds=[0], task={"epochs": 1})
    with pytest.raises(InputError, match="no study named 'nobody'"):
        run(path)
    assert any(t.job.role == "proposal" for t in run(study(toy_file, 2)))
    with pytest.raises(InputError, match="arm 'tpe' has results"):
        run(toy_file(arms=[{**ARM, "trials": 2, "sampler": "random"}], seeds=[0], task={"epochs": 1}))
