import itertools
import os
import signal
import sqlite3
import sys
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import pytest
import sqlalchemy
import yaml
from alembic.config import Config
from alembic.script import ScriptDirectory
from clusters import stop_ray
from inline import TOY, InlineExecutor
from postgresql import Server, Unavailable

from naslab.efficiency import latency
from naslab.runs import worker
from naslab.runs.output import err, out

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))

# Where the tests run in the background of a shell, Ctrl-C is ignored, by them and by all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

WIDE = 200


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def wait_for_no_disk(connection, _record):
    """Nobody cuts the power here; every commit would wait for the disk, a third of the time of these tests."""
    if isinstance(connection, sqlite3.Connection):
        with suppress(sqlite3.Error):  # no database, or locked: whoever uses it is to find out
            connection.execute("PRAGMA synchronous = OFF")


@cache
def revisions(folder):
    """Whenever a storage is opened, Optuna executes its dozen revisions again to find the last."""
    config = Config()
    config.set_main_option("script_location", folder)
    return read_revisions(config)


read_revisions = ScriptDirectory.from_config
ScriptDirectory.from_config = staticmethod(lambda config: revisions(config.get_main_option("script_location")))


@pytest.fixture(autouse=True)
def short_profiles(monkeypatch):
    """A profile of a study takes the least samples; how many it takes otherwise, tests/efficiency asks."""
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(worker, "profile", partial(worker.profile, min_seconds=0.0, max_seconds=0.0))


@pytest.fixture(autouse=True)
def wide_console(monkeypatch):
    """What a table says is tested where nothing wraps; that it stays readable elsewhere has tests of its own."""
    monkeypatch.setenv("COLUMNS", str(WIDE))
    widths = [(console, console.width) for console in (out, err)]
    for console, _ in widths:
        console.width = WIDE
    yield
    for console, width in widths:
        console.width = width


@pytest.fixture
def toy_file(tmp_path, monkeypatch):
    """Write a toy study, changed as asked, into an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({**TOY, **changes}))
        return path

    return write


@pytest.fixture(scope="module", autouse=True)
def no_cluster_is_left():
    """A Ray cluster ends with the file that asked for it."""
    yield
    stop_ray()


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL server of the tests' own."""
    try:
        made = Server()
    except Unavailable as missing:
        pytest.skip(str(missing))
    yield made.start()
    made.stop()


@pytest.fixture
def database(server):
    """The URL of an empty database; the server is there again when the test is done with it."""
    name = f"test{next(NUMBERS)}"
    yield server.start().create(name)
    server.start().drop(name)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def storage(request, tmp_path):
    """A storage that is not there yet: a file, and a database on a server."""
    return str(tmp_path / "lab.db") if request.param == "sqlite" else request.getfixturevalue("database")


NUMBERS = itertools.count()


@pytest.fixture
def inline(monkeypatch):
    """The worker is a thread of this very process, which saves the start of another."""
    monkeypatch.setattr("naslab.runs.driver.make_executor", InlineExecutor)
