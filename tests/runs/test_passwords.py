"""A password of a database is in nothing that naslab prints, writes or stores, whatever it looks like."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy

from naslab.errors import InputError
from naslab.runs.cli import run_command_line
from naslab.runs.lease import engine_of
from naslab.runs.ledger import Ledger
from naslab.runs.storage import connect
from naslab.runs.storage_url import shown, without_secrets

SECRET = "hunter2@/w:rd%{x}"
FORMS = (SECRET, quote(SECRET, safe=""), "hunter2")


@pytest.fixture(scope="module")
def locked(server):
    """The folder of a server where the user `lab` needs a password."""
    server.execute(f"CREATE ROLE lab LOGIN PASSWORD '{SECRET}'")
    server.execute('CREATE DATABASE "locked" OWNER lab')
    server.set_hba("local all lab scram-sha-256\nlocal all all trust\n")
    yield server.folder
    server.set_hba("local all all trust\n")


def url(folder, password=SECRET, user="lab"):
    return f"postgresql://{user}:{quote(password, safe='')}@/locked?host={folder}"


def check_clean(*texts):
    for text in texts:
        for form in FORMS:
            assert form not in text


@pytest.mark.postgresql
def test_no_command_file_or_record_tells_it(locked, toy_file, inline, capfd, monkeypatch):
    monkeypatch.setattr("naslab.runs.export.prove", lambda *_: None)  # in a process that is told of folders alone
    path = str(toy_file(arms=[], seeds=[0]))
    made = url(locked)
    commands = [
        ["run", path, "--dry-run"], ["run", path], ["run", path], ["status", "toy"], ["rank", "toy"], ["report", "toy"],
        ["logs", "toy", "0"], ["export", "toy"], ["studies"], ["studies", "rename", "toy", "tin"], ["rank", "toy"],
        ["studies", "delete", "tin"],
    ]  # fmt: skip
    for command in commands:
        for more in ([], ["--json"]):
            if command[1:2] == ["rename"] and more:
                continue
            run_command_line([*command, *more, "--storage", made])
            said = capfd.readouterr()
            check_clean(said.out, said.err)
            if more and said.out:
                assert json.loads(said.out)["schema"]
    assert Ledger.open(made, "tin").trials()
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert len(files) > 5
    check_clean(*(path.read_bytes().decode("latin-1") for path in files))
    engine = engine_of(connect(made, create=False))
    with engine.connect() as connection:
        for table in sqlalchemy.inspect(engine).get_table_names():
            check_clean(*(str(row) for row in connection.execute(sqlalchemy.text(f'select * from "{table}"'))))


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "made",
    [
        lambda folder: url(folder, f"not {SECRET}"),
        lambda folder: url(folder, user="nobody"),
        lambda folder: url(folder).replace("/locked", "/elsewhere"),
        lambda folder: url(folder).replace(f"@/locked?host={folder}", "@127.0.0.1:1/locked"),
        lambda folder: url(folder) + "&no_such_option=1",
        lambda folder: url(folder).replace("@/locked", "@[/locked"),
        lambda folder: f"postgresql://lab:{SECRET}@host:port/locked",
        lambda folder: "postgresql://lab:hunter2/locked",
        lambda folder: f"postgresql://@/locked?host={folder}&user=lab&password=not{quote(SECRET, safe='')}",
    ],
)
def test_no_message_tells_it(locked, toy_file, capfd, made):
    assert run_command_line(["status", "toy", "--storage", made(locked)]) == 2
    said = capfd.readouterr()
    assert said.err.count("\n") == 1
    check_clean(said.out, said.err)


@pytest.mark.postgresql
def test_a_password_may_stand_where_the_library_looks_for_it(locked, tmp_path, monkeypatch):
    bare = f"postgresql://lab@/locked?host={locked}"
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    with pytest.raises(InputError, match="cannot be reached"):
        connect(bare, create=True)
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSWORD", SECRET)
        assert connect(bare, create=True).get_all_studies() is not None
    (tmp_path / "pgpass").write_text(f"*:*:*:lab:{SECRET.replace(':', chr(92) + ':')}\n")
    (tmp_path / "pgpass").chmod(0o600)
    assert connect(bare, create=True).get_all_studies() is not None


def test_a_command_line_does_not_go_on_telling_it():
    """Not to `ps`, to Ray's table of jobs, or to a process that is started with `sys.argv`."""
    script = (
        "import sys; from pathlib import Path; from naslab.runs.concealment import conceal_passwords\n"
        "conceal_passwords(); print(sys.argv); print(Path('/proc/self/cmdline').read_bytes())"
    )
    given = ["run", "é", f"--storage=postgresql://lab:{quote(SECRET, safe='')}@h/d?password=hunter2", "--slots", "2"]
    done = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True, check=True)
    check_clean(done.stdout)
    assert all(word in done.stdout for word in ("postgresql://lab:**", "@h/d?password=*******", "--slots", "run"))


def test_a_password_within_a_word_leaves_the_word_alone():
    made = "postgresql://me:lab@host/db"
    assert without_secrets("no naslab storage, collaborators", made) == "no naslab storage, collaborators"
    assert without_secrets("password 'lab' refused for me:lab@host", made) == "password '***' refused for me:***@host"
    assert "lab" not in shown(made)
    assert without_secrets(f"cannot open {made}", made) == "cannot open postgresql://me:***@host/db"
