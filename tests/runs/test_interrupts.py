"""An interruption is heard, whatever the driver is at, and cuts no record in two."""

import signal
from collections import Counter

import pytest

from naslab.runs import interrupts
from naslab.runs.driver import run_study
from naslab.runs.interrupts import HeldBack, termination_interrupts
from naslab.runs.ledger import Ledger
from naslab.runs.output import err
from naslab.runs.progress import Progress
from naslab.runs.study import load_study

SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Dies:
    """A finaliser in which Python drops what is raised."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interruption_in_a_finaliser_is_not_lost(number):
    with termination_interrupts(), HeldBack() as held:
        held.check()
        Dies(number)
        with pytest.raises(KeyboardInterrupt):
            held.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_that_was_dropped_before_anything_could_wait_for_it_is_heard_once():
    with termination_interrupts():
        Dies(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), HeldBack():
            pass
    with termination_interrupts(), HeldBack() as held:
        held.check()


def test_of_many_interruptions_only_a_late_one_comes_out_of_nowhere(monkeypatch):
    with HeldBack() as held:
        for _ in range(5):
            signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(interrupts, "GRACE_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            held.check()


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldBack() as held:
            signal.raise_signal(signal.SIGINT)
            held.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("step", ["create_new_trial", "set_trial_user_attr", "set_trial_state_values"])
def test_an_interruption_at_any_step_of_a_record_leaves_it_whole(toy_file, inline, monkeypatch, number, step):
    """The third trial is begun, told or ended just when the signals come; each record is still all or nothing."""
    path = toy_file(arms=[], seeds=[0, 1, 2])
    ledger, calls = Ledger.start("runs.db", load_study(path)), Counter()
    write = getattr(ledger._storage, step)

    def interrupted(*given, **more):
        calls[step] += 1
        if calls[step] == 3:
            signal.raise_signal(number)
            signal.raise_signal(number)
        return write(*given, **more)

    monkeypatch.setattr(ledger._storage, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(ledger, 1, Progress(err, quiet=True))
    before = Ledger.open("runs.db", "toy").trials()
    assert {t.state for t in before} <= {"complete", "interrupted"}
    assert sum(t.state == "complete" for t in before) >= 2
    ledger = Ledger.start("runs.db", load_study(path))
    run_study(ledger, 1, Progress(err, quiet=True))
    after = [t for t in ledger.trials() if t.state == "complete"]
    assert {t.number for t in before if t.state == "complete"} <= {t.number for t in after}
    assert max(Counter(t.job.key for t in after).values()) == 1
    assert len(after) == 1 + 3 + 3 + 1, "two controls, the reference, a profile"
