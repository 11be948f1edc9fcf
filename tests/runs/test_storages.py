"""What holds of every storage, seen on an SQLite file and on a PostgreSQL server alike."""

import gc
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import optuna
import pytest
import sqlalchemy
from inline import TOY, run_here

from naslab.errors import InputError
from naslab.runs.cli import run_command_line
from naslab.runs.lease import engine_of
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank
from naslab.runs.server_storage import with_driver
from naslab.runs.storage import connect
from naslab.runs.storage_url import storage_url
from naslab.runs.study import parse_study
from naslab.runs.trial import Job

LONG = 240
"""Seconds until those who wait for one that failed fail, too."""


def study(name="toy", **changes):
    return parse_study({**TOY, "name": name, **changes}, "test")


def run(storage, **changes):
    return run_here(Ledger.start(storage, study(**changes)))


def finished(ledger):
    return {t.job.key: t.number for t in ledger.trials() if t.state == "complete"}


def recorded(ledger):
    """How often each number stands in the database itself."""
    asked = "select value_json from trial_user_attributes where key = 'number'"
    with engine_of(ledger._storage).connect() as connection:
        return Counter(int(row[0]) for row in connection.execute(sqlalchemy.text(asked)))


def test_a_study_goes_on_and_grows(storage, toy_file):
    first = run(storage, seeds=[0])
    before = finished(first)
    again = run(storage, seeds=[0])
    assert finished(again) == before
    grown = run(storage, seeds=[0, 1])
    assert before.items() < finished(grown).items()
    assert set(recorded(grown).values()) == {1}
    assert sorted(recorded(grown)) == [t.number for t in grown.trials()]
    with pytest.raises(InputError, match="task changed"):
        run(storage, seeds=[0, 1], task={"epochs": 3})


def test_an_interrupted_study_goes_on(storage, toy_file, monkeypatch):
    finish, calls = Ledger.finish, []

    def interrupt(self, *told):
        calls.append(told)
        if len(calls) in (3, 7):
            raise KeyboardInterrupt
        return finish(self, *told)

    monkeypatch.setattr(Ledger, "finish", interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(storage)
    ledger = run(storage)
    assert set(Counter(t.job.key for t in ledger.trials() if t.state == "complete").values()) == {1}
    assert {t.state for t in ledger.trials()} <= {"complete", "interrupted"}


def by_hand(storage, name="demo"):
    """A study whose figures are given, awkward ones among them."""
    sweep = {"name": "cells", "engine": "grid", "vary": {"cell": [["good"] * 4, ["poor"] * 4]}}
    ledger = Ledger.start(storage, study(name, arms=[sweep], random_architectures=0, seeds=[0, 1, 2]))
    points = [(ledger.space.reference, "reference", None)]
    points += [(point, "final", "cells") for point in ledger.study.grids["cells"]]
    with ledger.hold(1):
        ledger.name_metric("score")
        for index, (configuration, role, arm) in enumerate(points):
            for seed in ledger.study.seeds:
                key = f"{role}/{configuration.digest}/seed{seed}"
                trial_id, _ = ledger.begin(Job(key, role, role, seed, configuration, arm))
                score = 1 / 3 + 10 * index + 0.1 * seed
                seconds = {"train": 1e-17 + 0.1 * (seed + 1) + index / 7, "evaluate": 1 / 3}
                ledger.rung(trial_id, 1, score)
                facts = {"seconds": seconds, "device": "cpu", "scores": {"score": score, "validation_score": score}}
                ledger.finish(
                    trial_id, "complete", {**facts, "result": {"metric": "score", "text": "über ☃ \x00 \\u0000"}}
                )
    return ledger


@pytest.mark.postgresql
def test_the_ranking_is_the_same_to_the_last_digit(database, tmp_path):
    here, there = by_hand(str(tmp_path / "lab.db")), by_hand(database)
    documents = [json.dumps(rank(one.study, Ledger.open(one.url, "demo").trials()).to_dict()) for one in (here, there)]
    assert documents[0] == documents[1]
    assert Ledger.open(here.url, "demo").trials() == Ledger.open(there.url, "demo").trials()


def test_a_storage_is_made_by_many_at_once(storage, monkeypatch):
    monkeypatch.setattr("naslab.runs.storage.MEETINGS", 200)  # a busy machine takes its time
    number = 6
    start = threading.Barrier(number, timeout=LONG)

    def make(index):
        start.wait()
        with Ledger(connect(url, create=True), url, study(f"toy{index}")).hold(1):
            pass
        return Ledger.open(storage, f"toy{index}").study.name

    url = storage_url(storage)
    with ThreadPoolExecutor(number) as pool:
        assert sorted(pool.map(make, range(number))) == [f"toy{index}" for index in range(number)]


def test_one_of_many_drivers_gets_a_study(storage):
    number = 6
    connect(storage_url(storage), create=True)
    start, leave = (threading.Barrier(number, timeout=LONG) for _ in range(2))

    def hold(_):
        ledger = Ledger.start(storage, study())
        start.wait()
        try:
            with ledger.hold(1):
                leave.wait()
                return "held it"
        except InputError as error:
            leave.wait()
            return str(error)

    with ThreadPoolExecutor(number) as pool:
        said = list(pool.map(hold, range(number)))
    assert said.count("held it") == 1
    assert sum("works on this study" in line for line in said) == number - 1


@contextmanager
def reading(url):
    """A transaction that has read and does not end."""
    with engine_of(connect(url, create=False)).connect() as connection:
        connection.exec_driver_sql(
            "BEGIN" if url.startswith("sqlite") else "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"
        )
        before = connection.exec_driver_sql("select count(*) from trials").scalar()
        yield
        assert connection.exec_driver_sql("select count(*) from trials").scalar() == before


def test_a_reader_never_blocks_a_driver(storage, toy_file, monkeypatch, capsys):
    monkeypatch.setattr("naslab.runs.sqlite_storage.LOCK_SECONDS", 20.0)  # a driver that it blocked would end then
    run(storage, name="other", arms=[], seeds=[0])
    url = storage_url(storage)
    with reading(url):
        ledger = run(storage, arms=[], seeds=[0])
    assert {t.state for t in ledger.trials()} == {"complete"}


def test_a_running_study_is_ranked_and_others_run_beside_it(storage, toy_file, capsys):
    ledger = by_hand(storage, "done")
    with ledger.hold(1):
        ledger.begin(Job("reference/again", "reference", "reference", 9, ledger.space.reference))
        run(storage, arms=[], seeds=[0])
        for command in (["rank", "done"], ["status", "done"], ["rank", "toy"]):
            assert run_command_line([*command, "--storage", storage, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["study"] == command[1]
        assert Ledger.open(storage, "done").trials()[-1].state == "running"


def test_optunas_own_tools_read_it(storage, toy_file):
    ledger = run(storage, seeds=[0])
    searched = optuna.load_study(study_name="toy", storage=with_driver(storage_url(storage)))
    proposals = [t for t in ledger.trials() if t.job.role == "proposal"]
    assert searched.best_value == max(t.scores["validation_score"] for t in proposals)
    assert [t.user_attrs["number"] for t in searched.trials] == [t.number for t in proposals]
    assert optuna.visualization.plot_optimization_history(searched).to_json()


def test_reading_makes_nothing(storage):
    with pytest.raises(InputError, match=r"no such storage|holds no studies"):
        Ledger.open(storage, "toy")
    with pytest.raises(InputError, match=r"no such storage|holds no studies"):
        Ledger.open(storage, "toy")


FEW = 5
"""The driver's own, its heart's, and what Optuna keeps for its threads."""


@pytest.mark.postgresql
def test_a_driver_has_few_connections_and_leaves_none(database, server, monkeypatch, capsys):
    """As do commands that only read: a server has a hundred for all."""
    name, finish, seen = database.partition("/test")[2].partition("?")[0], Ledger.finish, []
    counted = f"select count(*) from pg_stat_activity where datname = 'test{name}' and pid <> pg_backend_pid()"
    admin = sqlalchemy.create_engine(with_driver(server.url("postgres")), poolclass=sqlalchemy.NullPool)

    def connections():
        with admin.connect() as connection:
            return connection.scalar(sqlalchemy.text(counted))

    def finish_and_count(self, *told):
        seen.append(connections())
        return finish(self, *told)

    monkeypatch.setattr(Ledger, "finish", finish_and_count)
    run(database)
    for _ in range(3):
        assert run_command_line(["status", "toy", "--storage", database, "--json"]) == 0
    assert len(seen) > FEW
    assert 0 < max(seen) <= FEW
    gc.collect()
    assert connections() == 0


@pytest.mark.postgresql
def test_a_database_of_something_else_is_left_alone(database, server):
    engine = sqlalchemy.create_engine(database.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table studies (x integer)"))
    with pytest.raises(InputError, match="its table 'studies' is not naslab's"):
        Ledger.start(database, study())
    beside = f"{database}&options=-csearch_path%3Dlab"
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create schema lab"))
    with Ledger.start(beside, study()).hold(1):
        pass
    assert Ledger.open(beside, "toy").study.name == "toy"
    engine.dispose()
