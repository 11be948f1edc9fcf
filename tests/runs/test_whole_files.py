"""What a command writes is there whole or not at all, whoever is killed at which moment."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from naslab.errors import InputError
from naslab.runs.output import print_json
from naslab.runs.sqlite_storage import set_journal
from naslab.runs.storage import connect
from naslab.runs.storage_url import storage_url
from naslab.runs.verdict import ask_to_stop, asked_to_stop
from naslab.whole_file import write_whole

KILLED = """
import os, sys
from pathlib import Path
from naslab.whole_file import write_whole
steps = 0
def watch(event, arguments):
    global steps
    if event in ("open", "os.rename", "os.chmod") and str(arguments[0]).startswith(sys.argv[1]):
        steps += 1
        if steps == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
sys.addaudithook(watch)
write_whole(Path(sys.argv[1], "page.html"), "new" * 1_000_000)
"""


@pytest.mark.parametrize("before", [None, "old"])
def test_whoever_is_killed_at_any_step_leaves_the_old_file_or_the_new(tmp_path, before):
    path, codes = tmp_path / "page.html", []
    for step in range(1, 9):
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_text(before)
        codes.append(subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(step)]).returncode)
        if codes[-1] == 0:
            break
        assert (path.read_text() if path.exists() else None) == before
    assert codes[0] == -signal.SIGKILL
    assert codes[-1] == 0
    assert path.read_text() == "new" * 1_000_000


def test_a_link_stays_one_and_a_file_keeps_its_permissions(tmp_path):
    (tmp_path / "there").mkdir()
    file, link = tmp_path / "there" / "page.html", tmp_path / "page.html"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    write_whole(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "there") == ["page.html"]


def test_what_is_no_file_takes_it_as_it_comes(tmp_path):
    reading, writing = os.pipe()
    write_whole(Path(f"/dev/fd/{writing}"), "to a pipe")
    os.close(writing)
    assert os.read(reading, 100) == b"to a pipe"
    os.close(reading)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, "")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "page.html", "")


def test_a_document_that_cannot_be_written_prints_nothing(capsys):
    with pytest.raises(ValueError, match="JSON"):
        print_json({"rows": [1.0, float("nan")]})
    assert capsys.readouterr().out == ""


def test_a_worker_never_reads_half_of_why_it_is_to_stop(tmp_path, monkeypatch):
    """It would end its trial as pruned, for good, where the budget only interrupts it."""
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append(asked_to_stop(tmp_path)), replace(*paths)))
    ask_to_stop(tmp_path, "budget")
    ask_to_stop(tmp_path, "budget")
    assert seen == [None]
    assert asked_to_stop(tmp_path) == "budget"


MADE = """
import sqlite3, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
statements = 0
@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *_):
    global statements
    statements += statement.lstrip().upper().startswith(("CREATE", "INSERT"))
    if statements == int(sys.argv[1]):
        import os; os.kill(os.getpid(), 9)
from naslab.runs.sqlite_storage import set_journal
from naslab.runs.storage import connect
connect("sqlite:///lab.db", create=True)
"""


def test_a_storage_whose_maker_was_killed_at_any_table_is_made_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for statement in (1, 2, 3, 8, 14):
        Path("lab.db").unlink(missing_ok=True)
        killed = subprocess.run([sys.executable, "-c", MADE, str(statement)]).returncode
        assert killed == -signal.SIGKILL
        assert connect(storage_url("lab.db"), create=True).get_all_studies() == []


CUT_SHORT = """
import os, sqlite3
connection = sqlite3.connect("lab.db", isolation_level=None)
for line in ("pragma cache_size=1", "begin", "create table half (x)"):
    connection.execute(line)
for _ in range(500):  # more than the cache holds, so that pages are in the file before the commit
    connection.execute("insert into half values (zeroblob(4000))")
os.kill(os.getpid(), 9)
"""


def test_a_commit_that_was_cut_short_is_rolled_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connect(storage_url("lab.db"), create=True)
    with closing(sqlite3.connect("lab.db")) as connection:  # as on a network file system
        assert set_journal(connection, "delete") == "delete"
    whole = Path("lab.db").read_bytes()
    assert subprocess.run([sys.executable, "-c", CUT_SHORT]).returncode == -signal.SIGKILL
    assert Path("lab.db").read_bytes() != whole
    assert connect(storage_url("lab.db"), create=False).get_all_studies() == []
    assert Path("lab.db").read_bytes() == whole


def test_a_storage_of_something_else_is_left_alone(tmp_path):
    import sqlite3

    for table in ("trials (patient)", "studies (title)", "notes (text)"):
        path = tmp_path / "other.db"
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute(f"create table {table}")
        before = path.read_bytes()
        with pytest.raises(InputError, match="not a naslab storage"):
            connect(storage_url(str(path)), create=True)
        assert path.read_bytes() == before
