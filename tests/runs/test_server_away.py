"""A PostgreSQL server that is killed while a study runs: nothing finished is lost, nothing is recorded twice."""

import random
import threading
import time
from collections import Counter

import pytest
import sqlalchemy
from inline import TOY, InlineExecutor
from rich.console import Console
from test_storages import recorded

from naslab.errors import InputError
from naslab.runs import patience
from naslab.runs.driver import run_study
from naslab.runs.ledger import Ledger
from naslab.runs.patience import Patience, StorageAway
from naslab.runs.progress import Progress
from naslab.runs.study import parse_study

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed: naslab[postgresql]")
pytestmark = pytest.mark.postgresql
BROKEN = "server closed the connection unexpectedly"


class Listener(Progress):
    """Keeps what is said of the study as a whole."""

    def __init__(self):
        super().__init__(Console(stderr=True), quiet=True)
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(autouse=True)
def quickly(monkeypatch, toy_file):
    monkeypatch.setattr(patience, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr("naslab.runs.driver.make_executor", InlineExecutor)


def ledger_of(url, **changes):
    arms = [{"name": "random", "engine": "optuna", "sampler": "random", "trials": 8, "pruner": "asha"}]
    return Ledger.start(url, parse_study({**TOY, "arms": arms, "task": {"epochs": 3}, **changes}, "test"))


def check_whole(url):
    """Each job has one end that counts, and each number stands in the database once."""
    ledger = Ledger.open(url, "toy")
    trials = ledger.trials()
    assert set(Counter(t.job.key for t in trials if t.state in ("complete", "pruned")).values()) == {1}
    assert {t.state for t in trials} <= {"complete", "pruned", "interrupted"}
    numbers = recorded(ledger)
    assert set(numbers.values()) == {1}
    assert sorted(numbers) == list(range(len(trials)))
    sessions = ledger.sessions()
    assert all(s["started"] <= s["seen"] for s in sessions)
    assert sum(t.job.role == "proposal" and t.state != "interrupted" for t in trials) == 8
    return trials


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_an_answer_that_is_lost_records_nothing_twice(database, monkeypatch, share, done):
    """So many of the commits break the connection: after they were done, or before."""
    commits, chance = 0, random.Random(share)
    commit = sqlalchemy.engine.default.DefaultDialect.do_commit

    def lose(self, connection):
        nonlocal commits
        commits += 1
        lost = threading.current_thread() is threading.main_thread() and chance.random() < share
        if done or not lost:
            commit(self, connection)
        if lost:
            connection.close()
            raise psycopg2.OperationalError(BROKEN)

    ledger, listener = ledger_of(database), Listener()
    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy.engine.default.DefaultDialect, "do_commit", lose)
        run_study(ledger, 1, listener)
    trials = check_whole(database)
    assert {t.state for t in trials} <= {"complete", "pruned"}
    assert commits > 3 * len(trials)
    assert any("cannot be reached" in line for line in listener.lines)
    assert len(Ledger.open(database, "toy").sessions()) == 1


def test_a_server_that_is_killed_again_and_again(database, server):
    """At random moments over a study of trivial trials; one driver sees it through."""
    moments, over = random.Random(0), threading.Event()
    kills = 0

    def strike():
        nonlocal kills
        while not over.is_set():
            time.sleep(moments.uniform(0.05, 0.5))
            server.kill()
            kills += 1
            time.sleep(moments.uniform(0, 0.3))
            server.start()

    ledger, listener = ledger_of(database), Listener()
    striker = threading.Thread(target=strike)
    striker.start()
    try:
        run_study(ledger, 1, listener)
    finally:
        over.set()
        striker.join()
    assert kills
    check_whole(database)


def test_connections_that_were_cut_while_nobody_used_them_are_made_anew(database, server, monkeypatch):
    """As by a firewall after an hour of a long trial."""
    finish, name = Ledger.finish, sqlalchemy.make_url(database).database
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"

    def cut_and_finish(self, *told):
        server.execute(cut)
        return finish(self, *told)

    monkeypatch.setattr(Ledger, "finish", cut_and_finish)
    listener = Listener()
    run_study(ledger_of(database), 1, listener)
    assert {t.state for t in check_whole(database)} <= {"complete", "pruned"}


def test_a_driver_that_gives_up_loses_nothing_and_the_same_call_goes_on(database, server, monkeypatch):
    monkeypatch.setenv(patience.RECONNECT_VARIABLE, "0.5")
    finish, calls = Ledger.finish, []

    def kill(self, *told):
        calls.append(told)
        if len(calls) == 5:
            server.kill()
        return finish(self, *told)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", kill)
        with pytest.raises(StorageAway, match=r"nothing is lost, the same command resumes"):
            run_study(ledger_of(database), 1, Listener())
    server.start()
    before = {t.job.key: t.number for t in Ledger.open(database, "toy").trials() if t.state == "complete"}
    assert len(before) == 4
    run_study(ledger_of(database), 1, Listener())
    trials = check_whole(database)
    assert before.items() <= {t.job.key: t.number for t in trials}.items()
    assert {t.state for t in trials} <= {"complete", "pruned"}, "the end that was told in its trail is adopted"


def test_a_server_that_is_not_there_is_one_line_at_once(database, server):
    server.kill()
    began = time.monotonic()
    with pytest.raises(InputError, match="the storage cannot be reached") as caught:
        ledger_of(database)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < patience.RECONNECT_SECONDS / 10


def test_who_waits_may_be_interrupted():
    def away(again):
        raise StorageAway("gone")

    waiting = Patience(1000)
    waiting.check = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        waiting(away)


@pytest.mark.parametrize("given", ["", "soon", "nan", "inf", "-1"])
def test_the_time_to_wait_is_a_number(monkeypatch, given):
    monkeypatch.setenv(patience.RECONNECT_VARIABLE, given)
    with pytest.raises(InputError, match=patience.RECONNECT_VARIABLE):
        patience.reconnect_seconds()
