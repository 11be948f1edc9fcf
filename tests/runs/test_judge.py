"""Judgements at rungs: the same whatever the polling, the slots and the interruptions, given the order of reports."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from inline import TOY, run_here
from rich.console import Console
from together_space import Regression

from naslab.runs.driver import run_study
from naslab.runs.executors import Slot
from naslab.runs.judge import Judge, Judgement
from naslab.runs.ledger import Ledger
from naslab.runs.progress import Progress
from naslab.runs.study import load_study, parse_study
from naslab.runs.trial import Job
from naslab.runs.verdict import await_verdict, give_verdict
from naslab.runs.worker import run_job

EPOCHS = 8


def study(pruner, **options):
    arm = {"name": "a", "engine": "optuna", "sampler": "random", "trials": 9, "pruner": pruner, **options}
    return parse_study({**TOY, "arms": [arm]}, "test")


STUDIES = [
    study("asha", order="reports"),
    study("asha", reduction=3, patience=1, order="reports"),
    study("hyperband", order="reports"),
    study("median", order="reports"),
    study("percentile", order="reports"),
]
IN_ORDER = [
    study("asha"),
    study("asha", reduction=3, patience=1),
    study("asha", reduction=2, first_rung=2),
    study("hyperband"),
    study("median", startup=2),
    study("percentile", startup=1),
]


def job(index):
    return Job(f"proposal/a/{index}", "proposal", f"a {index}", index, None, "a")


def reports(curves, times):
    """Every (time, proposal, epoch, score) that would be reported if nothing were pruned, in order."""
    clocks = [[sum(steps[: e + 1]) for e in range(len(steps))] for steps in times]
    found = [(clocks[i][e], i, e + 1, curve[e]) for i, curve in enumerate(curves) for e in range(EPOCHS)]
    return sorted(found)


def play(study, found, cuts=(), batches=1):
    """Judge the reports; at each of `cuts` the driver dies, another reads what was recorded, and rungs come again."""
    judge, stored, stopped = Judge(study, EPOCHS), {}, set()
    for start in range(0, len(found), batches):
        for n, (_, index, epoch, score) in enumerate(found[start : start + batches], start=start):
            if index in stopped:
                continue
            if n in cuts:
                judge = Judge(study, EPOCHS, reversed([Judgement(**one.to_dict()) for one in stored.values()]))
                for (key, past), one in list(stored.items()):
                    assert judge.decide(job(int(key.rpartition("/")[2])), past, -1.0) == one
            made = judge.decide(job(index), epoch, score)
            stored[made.key, made.epoch] = made
            if made.pruned:
                stopped.add(index)
    return stored


CURVES = st.lists(st.lists(st.integers(0, 20).map(float), min_size=EPOCHS, max_size=EPOCHS), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STUDIES), CURVES, st.data())
def test_polling_and_interruptions_change_no_judgement(study, curves, data):
    steps = st.lists(st.integers(1, 9), min_size=EPOCHS, max_size=EPOCHS)
    found = reports(curves, [data.draw(steps) for _ in curves])
    straight = play(study, found)
    cuts = data.draw(st.sets(st.integers(0, len(found)), max_size=4))
    assert play(study, found, cuts, data.draw(st.integers(1, 20))) == straight
    orders = [one.order for one in straight.values()]
    assert orders == list(range(len(orders))), "one order, without gaps"
    assert not any(one.pruned for one in straight.values() if one.epoch == EPOCHS)


@settings(max_examples=30, deadline=None)
@given(CURVES)
def test_running_peers_count_and_what_came_later_does_not(curves):
    """A judgement depends on the scores recorded before it alone, of whatever became of their trials."""
    found = reports(curves, [[1] * EPOCHS] * len(curves))
    whole = play(STUDIES[0], found)
    for cut in (1, len(found) // 2):
        part = play(STUDIES[0], found[:cut])
        assert part.items() <= whole.items()


class Simulation:
    """Proposals whose curves are recorded, on some slots: the driver's part of judging, on a clock of its own."""

    def __init__(self, study, curves, lengths, draw):
        self.study, self.curves, self.lengths, self.draw = study, curves, lengths, draw
        self.judge, self.stored = Judge(study, EPOCHS), {}
        self.todo = list(range(len(curves)))
        self.epoch = dict.fromkeys(self.todo, 0)
        """Epochs that each has trained: what its checkpoint holds."""
        self.slots, self.waits, self.begun = [], {}, set()

    def run(self, slots, deaths):
        while self.todo or self.slots:
            while self.todo and len(self.slots) < slots:
                self.slots.append(self.todo.pop(0))
                self.begun.add(self.slots[-1])
            free = [i for i in self.slots if i not in self.waits]
            assert free, "all slots wait for one another"
            self.train(self.draw(st.sampled_from(free)))
            if deaths and self.draw(st.booleans()):
                deaths -= 1
                self.die(self.draw(st.sampled_from(["driver", "worker"])))
        return {place: one.pruned for place, one in self.stored.items()}

    def train(self, index):
        """One epoch of one proposal, or its end."""
        if self.epoch[index] == self.lengths[index]:
            self.end(index)
        else:
            self.epoch[index] += 1
            self.wait(index)
        self.settle()

    def wait(self, index):
        epoch = self.epoch[index]
        self.judge.report(job(index), epoch, self.curves[index][epoch - 1])
        if epoch < EPOCHS:
            self.waits[index] = epoch

    def end(self, index):
        self.slots.remove(index)
        self.waits.pop(index, None)
        self.settle()

    def settle(self):
        for one in self.judge.settle({job(i).key for i in (*self.slots, *self.todo) if i in self.begun}):
            self.stored[one.key, one.epoch] = one
            index = int(one.key.rpartition("/")[2])
            if self.waits.get(index) == one.epoch:
                del self.waits[index]
                if one.pruned:
                    self.end(index)

    def die(self, who):
        """What ran is tried again, first those proposed first; a driver that died knows what was stored."""
        one = [self.draw(st.sampled_from(self.slots))] if self.slots else []
        gone = list(self.slots) if who == "driver" else one
        for index in gone:
            self.slots.remove(index)
            self.waits.pop(index, None)
            self.todo = sorted([*self.todo, index])
        if who == "driver":
            self.judge = Judge(self.study, EPOCHS, reversed(list(self.stored.values())))
        for index in gone:
            epoch = self.epoch[index]
            if epoch and (job(index).key, epoch) not in self.stored:
                self.judge.report(job(index), epoch, self.curves[index][epoch - 1])
        self.restart(gone)

    def restart(self, gone):
        """They wait at the rung that they had come to, where it is not judged yet."""
        for index in gone:
            if self.judge.is_awaited(job(index).key) is not None:
                self.waits[index] = self.epoch[index]
        self.settle()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(IN_ORDER), CURVES, st.data())
def test_slots_speed_and_interruptions_change_no_judgement(study, curves, data):
    lengths = [data.draw(st.integers(0, EPOCHS)) for _ in curves]
    alone = Simulation(study, curves, lengths, data.draw).run(slots=1, deaths=0)
    slots, deaths = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 3))
    assert Simulation(study, curves, lengths, data.draw).run(slots, deaths) == alone


def run(path, slots):
    ledger = Ledger.start("runs.db", load_study(path))
    run_study(ledger, slots, Progress(Console(stderr=True), quiet=True))
    return ledger


def test_no_epoch_is_trained_after_the_judgement_that_ends_a_proposal(toy_file):
    arm = {"name": "random", "engine": "optuna", "sampler": "random", "trials": 10, "pruner": "asha"}
    path = toy_file(task={"epochs": 8, "seconds": 0.0}, arms=[arm], random_architectures=0, seeds=[0])
    ledger = run(path, slots=2)
    proposals = [t for t in ledger.trials() if t.job.role == "proposal"]
    judgements = sorted(ledger.judgements(), key=lambda one: one.order)
    by_key = Counter(one.key for one in judgements)
    for trial in proposals:
        assert by_key[trial.job.key] == len(trial.rungs), "each rung once, none twice"
        ends = [one.epoch for one in judgements if one.key == trial.job.key and one.pruned]
        assert ends == ([trial.rungs[-1].epoch] if trial.state == "pruned" else [])
    assert Counter(t.state for t in proposals)["pruned"] >= 2, "the toy's epochs take no time, and yet none is missed"
    again = Judge(ledger.study, 8)
    jobs = {t.job.key: t.job for t in proposals}
    assert [again.decide(jobs[one.key], one.epoch, one.score) for one in judgements] == judgements, "it replays"


def test_a_rung_that_was_not_told_is_told_by_the_next_attempt(tmp_path, monkeypatch):
    """The checkpoint is saved before the rung is scored: killed in between, its rung would never be judged."""
    study = parse_study({**TOY, "arms": [], "space": {"name": "together_space:Space"}, "task": {"epochs": 4}}, "test")
    one = Job("reference/x/seed0", "reference", "reference", 0, study.search_space.reference)
    given = study.document(), one, tmp_path / "job", tmp_path / "log", Slot("cpu", threads=1)
    scored, evaluate = [], Regression.evaluate

    def fails_at_the_second(task, *given, **more):
        scored.append(given)
        if len(scored) == 2:
            raise SystemExit("killed while it scores")
        return evaluate(task, *given, **more)

    monkeypatch.setattr(Regression, "evaluate", fails_at_the_second)
    outcome, told = run_job(*given)
    assert (outcome.state, [rung.epoch for rung in told]) == ("failed", [1])
    outcome, told = run_job(*given)
    assert (outcome.state, [rung.epoch for rung in told]) == ("complete", [2, 3, 4])
    assert len(scored) == 6, "rung 1 is not scored again; the sixth is the final one"


def test_a_verdict_of_another_epoch_is_not_taken(tmp_path):
    give_verdict(tmp_path, 1, True)
    (tmp_path / "stop").write_text("budget")
    assert await_verdict(tmp_path, 2) == "budget", "whoever waits can be told to stop"
    give_verdict(tmp_path, 2, True)
    assert await_verdict(tmp_path, 2) == "prune"
    (tmp_path / "stop").unlink()
    give_verdict(tmp_path, 3, False)
    assert await_verdict(tmp_path, 3) is None


def test_an_interrupted_proposal_that_was_to_end_is_not_trained_again(toy_file):
    arm = {"name": "random", "engine": "optuna", "sampler": "random", "trials": 2, "pruner": "asha"}
    path = toy_file(task={"epochs": 4}, arms=[arm], random_architectures=0, seeds=[0])
    ledger = Ledger.start("runs.db", load_study(path))
    space = ledger.space
    cells = {0: ["good"] * 4, 1: ["poor"] * 4}
    with ledger.hold(1):
        for index, score in ((0, 9.0), (1, 1.0)):
            one = Job(f"proposal/random/{index}", "proposal", f"random {index}", index,
                      space.configuration({"head": "cell", "cell": cells[index]}), "random")  # fmt: skip
            trial_id, _ = ledger.begin(one)
            rung = {"epoch": 1, "device_seconds": 0.1, "scores": {"score": score}}
            ledger.finish(trial_id, "interrupted", {"seconds": {"train": 0.1}, "device": "cpu", "rungs": [rung]})
    ended = {
        t.job.key: t for t in run_here(Ledger.start("runs.db", load_study(path))).trials() if t.state != "interrupted"
    }
    assert ended["proposal/random/1"].state == "pruned"
    assert ended["proposal/random/1"].device_seconds == 0
    assert ended["proposal/random/0"].state == "complete"
