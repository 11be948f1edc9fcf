"""The lease: one driver per study, on any machine. It is stored in the study's own database.

Each driver has a row of `naslab_sessions`, numbered by a token that only grows. It holds the lease while its row is the
last one and has not ended. A row ends when its driver lets go, or when another driver takes over because the process is
gone (seen at once on the same machine) or has shown no sign of life for STALE_SECONDS. A driver that was stopped so
long and wakes up cannot write: every commit asks whether the row still stands (a fencing token), and so does every
heartbeat, by which a driver that has nothing to write learns of it.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from optuna.storages import BaseStorage
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    and_,
    delete,
    event,
    extract,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from naslab.errors import InputError, NaslabError
from naslab.runs.patience import Patience, StorageAway
from naslab.runs.processes import has_ended, is_of_this_machine, this_process

HEARTBEAT_SECONDS = 2.0
STALE_SECONDS = 20.0
"""Without a sign of life for so long, a driver on another machine, or a stopped one, is taken for dead."""
STALE_VARIABLE = "NASLAB_STALE_SECONDS"
"""The environment may say otherwise: longer where machines are often suspended."""

SESSIONS = Table(
    "naslab_sessions",
    MetaData(),
    Column("study", String(512), primary_key=True),
    Column("token", Integer, primary_key=True, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("started", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("ended", Boolean, nullable=False),
)


_here: set[str] = set()
"""The leases that this process holds: one that it could not let go, as its server was away, is no longer its."""


class LeaseLost(NaslabError):
    """Another driver took the study over; this one must not write any more."""


class Lease:
    """The right to write a study's records, while inside `with`.

    Args:
        slots: that its driver holds.
        patience: with a storage that is away.

    Raises (on entry):
        InputError: a living driver holds it.
    """

    def __init__(self, storage: BaseStorage, study: str, slots: int, patience: Patience | None = None) -> None:
        self._engine = engine_of(storage)
        self._study, self._slots = study, slots
        self._patience = patience or Patience()
        self._id = uuid.uuid4().hex
        self._holder = json.dumps({**this_process(), "lease": self._id})
        self.token = 0
        self._released = threading.Event()
        self._lost = self._leaves_nothing = False
        self._stale = stale_seconds()

    def __enter__(self) -> Lease:
        self._patience(lambda again: _make_table(self._engine))
        _here.add(self._id)
        try:
            self._patience(lambda again: self._take())
        except BaseException as error:
            _here.discard(self._id)
            if isinstance(error, IntegrityError):
                raise _busy(self._study, "another `naslab run`") from None
            raise
        event.listen(self._engine, "commit", self._fence)
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._heart.join()
        _here.discard(self._id)
        event.remove(self._engine, "commit", self._fence)
        if error is not None:
            with suppress(LeaseLost, StorageAway, SQLAlchemyError):
                self._release(again=False)
        else:
            self._patience(self._release)

    def leave_nothing(self) -> None:
        """Let the lease go without a trace: the study is no more, or has another name."""
        self._leaves_nothing = True

    def check_heart(self) -> None:
        """Raise LeaseLost if the last heartbeat found that another driver has taken over; asks nobody."""
        if self._lost:
            raise self._taken_over()

    def check(self) -> None:
        """Raise LeaseLost if another driver has taken over."""

        def ask(again: bool) -> None:
            with self._engine.connect() as connection:
                self._fence(connection)

        self._patience(ask)

    def cover(self, began: float, last: float) -> None:
        """Let the session that ran a trial from `began` to `last` last as long: its driver died before it said so."""
        sessions = SESSIONS.c
        ran = and_(sessions.study == self._study, sessions.token < self.token, sessions.started <= began)

        def write(again: bool) -> None:
            with self._engine.begin() as connection:
                token = connection.scalar(select(func.max(sessions.token)).where(ran))
                late = and_(sessions.study == self._study, sessions.token == token, sessions.seen < last)
                connection.execute(update(SESSIONS).where(late).values(seen=last))

        self._patience(write)

    def _take(self) -> None:
        with self._engine.begin() as connection:
            self._take_within(connection)

    def _take_within(self, connection: Connection) -> None:
        now, sessions = _now(connection), SESSIONS.c
        last = connection.execute(
            select(SESSIONS).where(sessions.study == self._study).order_by(sessions.token.desc()).limit(1)
        ).first()
        if last is not None and last.holder == self._holder:  # taken before the answer was lost
            self.token = last.token
            return
        if last is not None and not last.ended:
            if not _is_dead(json.loads(last.holder), now - last.seen, self._stale):
                raise _busy(self._study, _words(last, now))
            # Only if it still is as it was read: a heartbeat or a third driver may have come in between.
            same = and_(self._row(last.token), sessions.seen == last.seen, ~sessions.ended)
            if connection.execute(update(SESSIONS).where(same).values(ended=True)).rowcount != 1:
                raise _busy(self._study, "another `naslab run`")
        self.token = 1 if last is None else last.token + 1
        row = {"study": self._study, "token": self.token, "holder": self._holder, "slots": self._slots}
        connection.execute(SESSIONS.insert().values(**row, started=now, seen=now, ended=False))

    def _row(self, token: int) -> Any:
        return and_(SESSIONS.c.study == self._study, SESSIONS.c.token == token)

    def _fence(self, connection: Connection) -> None:
        asked = select(SESSIONS.c.ended).where(self._row(self.token)).with_for_update(read=True)
        if connection.scalar(asked) is not False:
            raise self._taken_over()

    def _taken_over(self) -> LeaseLost:
        return LeaseLost(
            f"{self._study}: another driver took this study over after this one showed no sign of life; it continues "
            "there, and this one stops"
        )

    def _beat(self) -> None:
        while not self._released.wait(min(HEARTBEAT_SECONDS, self._stale / 5)):
            try:
                self._show_life()
            except LeaseLost:
                self._lost = True
                return
            except (StorageAway, SQLAlchemyError):
                continue  # a busy or absent server; the next beat may come through

    def _show_life(self, ended: bool = False) -> None:
        with self._engine.begin() as connection:
            standing = and_(self._row(self.token), ~SESSIONS.c.ended)
            values = {"seen": _now(connection), "ended": ended}
            if connection.execute(update(SESSIONS).where(standing).values(**values)).rowcount != 1:
                raise self._taken_over()

    def _release(self, again: bool) -> None:
        if self._leaves_nothing:
            with self._engine.begin() as connection:
                own = and_(SESSIONS.c.study == self._study, SESSIONS.c.token <= self.token)
                connection.execute(delete(SESSIONS).where(own))
            return
        try:
            self._show_life(ended=True)
        except LeaseLost:
            if not (again and self._is_last()):  # else it was let go before the answer was lost
                raise

    def _is_last(self) -> bool:
        sessions = SESSIONS.c
        with self._engine.connect() as connection:
            asked = select(func.max(sessions.token)).where(sessions.study == self._study)
            return bool(connection.scalar(asked) == self.token)


def stale_seconds() -> float:
    """After how many seconds without a sign of life a driver is taken for dead.

    Raises:
        InputError: NASLAB_STALE_SECONDS is no positive number.
    """
    given = os.environ.get(STALE_VARIABLE)
    try:
        seconds = STALE_SECONDS if given is None else float(given)
    except ValueError:
        seconds = math.nan
    if given is not None and not 0 < seconds < math.inf:
        raise InputError(f"{STALE_VARIABLE}={given}: give the seconds after which a silent driver is taken for dead")
    return seconds


def sessions_of(storage: BaseStorage, study: str) -> list[dict[str, float]]:
    """The drivers that ran `study`: `started` and `seen` (last sign of life) in Unix seconds, and `slots`."""
    engine = engine_of(storage)
    if not inspect(engine).has_table(SESSIONS.name):
        return []
    columns = (SESSIONS.c.started, SESSIONS.c.seen, SESSIONS.c.slots)
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(SESSIONS.c.study == study).order_by(SESSIONS.c.token))
        return [dict(row._mapping) for row in rows]


@dataclass(frozen=True)
class Session:
    """The last driver of a study."""

    driver: dict[str, Any]
    """`pid`, `host` and `slots`."""
    seen: float
    """Its last sign of life, in Unix seconds."""
    is_alive: bool
    """Whether it holds the study now."""


def last_sessions(storage: BaseStorage) -> dict[str, Session]:
    """By study, the last driver that ran it."""
    engine = engine_of(storage)
    if not inspect(engine).has_table(SESSIONS.name):
        return {}
    found = {}
    with engine.connect() as connection:
        now = _now(connection)
        for row in connection.execute(select(SESSIONS).order_by(SESSIONS.c.token)):
            holder = json.loads(row.holder)
            driver = {"pid": holder["pid"], "host": holder["host"], "slots": row.slots}
            found[row.study] = Session(driver, row.seen, not row.ended and not _is_dead(holder, now - row.seen))
    return found


def engine_of(storage: BaseStorage) -> Engine:
    """The database connection of an Optuna storage, which caches before it."""
    backend: Any = getattr(storage, "_backend", storage)
    engine: Engine = backend.engine
    return engine


def _make_table(engine: Engine) -> None:
    if inspect(engine).has_table(SESSIONS.name):
        return
    try:
        with engine.begin() as connection:
            connection.execute(CreateTable(SESSIONS, if_not_exists=True))
    except DBAPIError:
        if not inspect(engine).has_table(SESSIONS.name):  # else another driver made it at the same moment
            raise


def _busy(study: str, who: str) -> InputError:
    return InputError(f"study {study!r}: {who} works on this study; wait for it or stop it")


def _words(row: Row[Any], now: float) -> str:
    holder = json.loads(row.holder)
    return (
        f"another `naslab run` (process {holder['pid']} on {holder['host']}, seen {max(now - row.seen, 0):.0f} s ago)"
    )


def _now(connection: Connection) -> float:
    """Unix seconds by the clock that all drivers of this database share."""
    match connection.dialect.name:
        case "postgresql":
            return float(connection.scalar(select(extract("epoch", func.clock_timestamp()))))  # type: ignore[arg-type]
        case "mysql" | "mariadb":
            return float(connection.scalar(select(func.unix_timestamp(func.now(6)))))  # type: ignore[arg-type]
    return time.time()


def _is_dead(holder: dict[str, Any], silent: float, stale: float | None = None) -> bool:
    """Whether another driver may take over from this one, which was silent for so many seconds."""
    return silent > (stale_seconds() if stale is None else stale) or _is_gone(holder)


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine, and its process is no more or has let the lease go."""
    if not is_of_this_machine(holder):
        return False
    if holder["pid"] == os.getpid() and "lease" in holder:
        return str(holder["lease"]) not in _here
    return has_ended(holder)
