"""One driver a study: who holds the lease, who may take it over, and what one that lost it can no longer do."""

import json
import multiprocessing
import os
import signal

import pytest
from optuna.study import StudyDirection
from sqlalchemy import update

from naslab.errors import InputError
from naslab.runs import lease as module
from naslab.runs import storage as storages
from naslab.runs.cli import run_command_line
from naslab.runs.lease import SESSIONS, STALE_SECONDS, Lease, LeaseLost, sessions_of
from naslab.runs.ledger import Ledger
from naslab.runs.storage_url import storage_url
from naslab.runs.study import load_study


@pytest.fixture
def url(storage):
    return storage_url(storage)


@pytest.fixture
def connect(url):
    return lambda: storages.connect(url, create=True)


def test_a_living_driver_keeps_others_out_of_its_study_alone(connect):
    with Lease(connect(), "mine", 2):
        with (
            pytest.raises(InputError, match=f"process {os.getpid()} on .* works on this study"),
            Lease(connect(), "mine", 1),
        ):
            pass
        with Lease(connect(), "other", 1):
            pass
    with Lease(connect(), "mine", 1) as again:
        assert again.token == 2
    first, second = sessions_of(connect(), "mine")
    assert first["slots"] == 2
    assert first["started"] <= first["seen"] <= second["started"]


def stop_for(lease, seconds):
    """As if its process had been suspended so long ago: its heart stands still, and was seen last then."""
    lease._released.set()
    lease._heart.join()
    with lease._engine.begin() as connection:
        connection.execute(update(SESSIONS).values(seen=SESSIONS.c.seen - seconds))


def test_who_lost_the_lease_can_write_no_more(connect):
    old, new = connect(), connect()
    first = Lease(old, "mine", 1)
    first.__enter__()
    study = old.create_new_study([StudyDirection.MAXIMIZE], "mine")
    stop_for(first, 2 * STALE_SECONDS)
    with Lease(new, "mine", 1):
        new.set_study_user_attr(study, "who", "new")
        with pytest.raises(LeaseLost):
            old.set_study_user_attr(study, "who", "old")
        assert new.get_study_user_attrs(study) == {"who": "new"}
        with pytest.raises(LeaseLost):
            first.check()
    with pytest.raises(LeaseLost):
        first.__exit__(None, None, None)
    with Lease(new, "mine", 1) as third:
        assert third.token == 3


def hold_for_ever(url, held):
    with Lease(storages.connect(url, create=True), "mine", 1):
        held.set()
        signal.pause()


def test_the_lease_of_a_process_that_is_gone_is_taken_over_at_once(url, connect):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold_for_ever, args=(url, held), daemon=True)  # it ends where this test fails
    process.start()
    assert held.wait(240)
    with pytest.raises(InputError), Lease(connect(), "mine", 1):
        pass
    process.kill()
    process.join()
    with Lease(connect(), "mine", 1) as taken:
        assert taken.token == 2


def test_a_driver_on_another_machine_is_left_alone_until_its_heart_has_stopped(connect, monkeypatch):
    far = {"host": "far", "machine": "another", "pid": 1, "born": "1"}
    monkeypatch.setattr(module, "this_process", lambda: far)
    with Lease(connect(), "mine", 1):
        monkeypatch.undo()
        with pytest.raises(InputError, match="process 1 on far"), Lease(connect(), "mine", 1):
            pass


def test_a_refused_driver_writes_nothing(toy_file, capsys):
    path = toy_file(arms=[], seeds=[0])
    ledger = Ledger.start("runs.db", load_study(path))
    with ledger.hold(1):
        before = json.dumps(Ledger.open("runs.db", "toy").study.document())
        code = run_command_line(["run", str(path), "--storage", "runs.db", "--set", "seeds=[0, 1, 2]"])
        message = capsys.readouterr().err
        assert code == 2
        assert message.count("\n") == 1
        assert "works on this study" in message
        assert json.dumps(Ledger.open("runs.db", "toy").study.document()) == before


def test_the_start_of_a_driver_that_dies_in_the_middle_is_made_good(toy_file, monkeypatch):
    study = load_study(toy_file(arms=[], seeds=[0]))
    ledger = Ledger.start("runs.db", study)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(ledger._storage), "set_study_user_attr", die)
    with pytest.raises(KeyboardInterrupt), ledger.hold(1):
        pass
    monkeypatch.undo()
    with Ledger.start("runs.db", study).hold(1):
        pass
    assert Ledger.open("runs.db", "toy").study.document() == study.document()
