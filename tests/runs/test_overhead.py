"""What a driver does for each trial does not grow with the trials before it: counted, not timed."""

from collections import Counter

import optuna
import pytest
import torch
from sqlalchemy import event

from naslab.runs import ledger as ledgers
from naslab.runs import optuna_record, past
from naslab.runs.lease import engine_of
from naslab.runs.ledger import Ledger
from naslab.runs.past import Past
from naslab.runs.plan import plan_next
from naslab.runs.ranking import rank
from naslab.runs.study import load_study
from naslab.runs.trial import Job, Trial
from naslab.search_spaces import derive_seed


def counted(monkeypatch, module, name):
    """How often a function of a module was called, as it goes."""
    calls, function = Counter(), getattr(module, name)

    def count(*arguments, **more):
        calls[name] += 1
        return function(*arguments, **more)

    monkeypatch.setattr(module, name, count)
    return calls


@pytest.fixture
def many(toy_file):
    """Adds finished trials to a study's storage as its driver would; the ledger that reads them, and its storage."""
    study = load_study(toy_file())
    storage = optuna.storages.get_storage("sqlite:///many.db")
    homes = [
        storage.create_new_study(optuna_record.directions(study), study.name + more) for more in ("", ledgers.ASIDE)
    ]
    configuration = study.search_space.reference

    def add(first, last):
        for number in range(first, last):
            job = Job(f"proposal/tpe/{number}", "proposal", f"tpe {number}", number, configuration, "tpe")
            trial_id = storage.create_new_trial(homes[number % 2], optuna_record.template(study, job, number))
            told = {"state": "complete", "scores": {"validation_score": 1.0}, "result": {"metric": "score"}}
            storage.set_trial_user_attr(trial_id, "outcome", told)
            storage.set_trial_state_values(trial_id, optuna.trial.TrialState.COMPLETE, [1.0])

    return add, Ledger(storage, "sqlite:///many.db", study), storage


def test_each_of_many_trials_is_converted_once(many, monkeypatch):
    add, ledger, _ = many
    calls = counted(monkeypatch, ledgers, "_ended")
    for last in (10, 20, 30):
        add(last - 10, last)
        for _ in range(3):
            assert [trial.number for trial in ledger.trials()] == list(range(last))
        assert calls["_ended"] == last


def test_more_trials_are_read_with_no_more_queries(many):
    add, ledger, storage = many
    queries = []
    event.listen(engine_of(storage), "before_cursor_execute", lambda *facts: queries.append(facts[2]))

    def asked():
        queries.clear()
        assert Ledger(storage, ledger.url, ledger.study).trials()
        return len(queries)

    add(0, 1)
    first = asked()
    add(1, 30)
    assert asked() == first


def test_a_trial_of_another_program_is_none_of_the_study(many):
    add, ledger, storage = many
    add(0, 2)
    optuna.load_study(study_name=ledger.study.name, storage=storage).ask()
    assert [trial.number for trial in ledger.trials()] == [0, 1]
    assert ledger.running() == []


def ended(trial, score=1.0):
    scores = {} if trial.job.role in ("search", "profile") else {"score": score, "validation_score": score}
    return Trial(trial.number, trial.job, "complete", scores=scores, result={"metric": "score"})


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_proposal_is_told_once_however_many_follow(toy_file, monkeypatch, sampler):
    arm = {"name": "arm", "engine": "optuna", "sampler": sampler, "trials": 60}
    study = load_study(toy_file(arms=[arm]))
    controls = study.make_task(torch.device("cpu")).controls()
    calls, known = counted(monkeypatch, past, "tell"), Past(study, "score")
    for number in range(70):
        job = plan_next(known, controls).job
        known.take(Trial(number, job, "running"))
        known.take(ended(Trial(number, job, "running"), derive_seed(number) % 7 + 1.0))
    proposals = sum(t.job.role == "proposal" for t in known.trials.values())
    assert calls["tell"] == proposals == 60


def test_what_is_kept_up_is_what_would_be_read_anew(toy_file):
    """Trials begin, end, are interrupted and fail in a random order; after each, both plans ask for the same."""
    study = load_study(toy_file(limits={"gpu_hours": 1.0}))
    controls = study.make_task(torch.device("cpu")).controls()
    kept, trials = Past(study, "score"), {}
    for step in range(200):
        plan = plan_next(kept, controls)
        assert plan == plan_next(Past(study, "score", trials.values()), controls)
        running = [t for t in trials.values() if t.state == "running"]
        if plan.job is not None and (not running or derive_seed(step) % 2):
            trial = Trial(len(trials), plan.job, "running")
        elif running:
            one = running[derive_seed(step, "which") % len(running)]
            states = ("complete", "complete", "complete", "interrupted", "failed")
            state = states[derive_seed(step, "end") % len(states)]
            trial = ended(one, derive_seed(step, "score") % 9 + 1.0) if state == "complete" else Trial(
                one.number, one.job, state
            )  # fmt: skip
        else:
            break
        trials[trial.number] = trial
        kept.take(trial)
    assert plan.state == "done"
    assert {t.state for t in trials.values()} == {"complete", "interrupted", "failed"}


def test_a_ranking_looks_at_each_trial_a_few_times_and_not_once_for_every_other(toy_file, monkeypatch):
    arm = {"name": "arm", "engine": "optuna", "sampler": "random", "trials": 400}
    study = load_study(toy_file(arms=[arm], ranking={"floor": "none"}))
    seen = Counter()
    monkeypatch.setattr(Trial, "last_epoch", property(lambda trial: seen.update([trial.number]) or 1))
    configuration = study.search_space.configuration({"head": "cell", "cell": ["good"] * 4})
    jobs = (Job(f"proposal/arm/{n}", "proposal", f"arm {n}", n, configuration, "arm") for n in range(400))
    trials = [ended(Trial(number, job, "running")) for number, job in enumerate(jobs)]
    assert rank(study, trials).rows == ()
    assert max(seen.values()) < 10
