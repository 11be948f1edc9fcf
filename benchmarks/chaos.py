"""Studies under random kill -9, SIGTERM and SIGSTOP of their drivers and workers, with 1 to 4 slots.

Usage: python benchmarks/chaos.py [--strikes 200] [--minutes 60] [--seed 0] [--out benchmarks/results/chaos.json]

Each strike picks a signal and a victim. A driver that ends is started again with another number of slots; a study that
is done makes room for the next. What must hold is checked after each strike and at the end: no finished trial is lost
or repeated, the time that the ledger charges to training is the one that the tasks themselves have witnessed (to 1 %
of the time that slots were held), and what nothing accounts for is never negative.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results_file import write_result
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from naslab.errors import InputError
from naslab.runs.ledger import Ledger
from naslab.runs.server_storage import with_driver
from naslab.runs.status import status
from naslab.runs.storage_url import storage_url
from naslab.runs.trial import Trial

HERE = Path(__file__).resolve().parent
SIGNALS = ("SIGKILL", "SIGTERM", "SIGSTOP")


class Chaos:
    """The studies in one storage, and the driver that works on the last of them."""

    victims: tuple[str, ...] = ("driver", "worker")
    executor: Mapping[str, Any] = {"kind": "local"}

    def __init__(self, folder: Path, seed: int, storage: str | None = None) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.storage = storage_url(storage or str(folder / "chaos.db"))
        self.names: list[str] = []
        self.finished: dict[tuple[str, str], int] = {}
        self.strikes: Counter[str] = Counter()
        self.starts = 0
        self._striking = True
        self.driver: subprocess.Popen[bytes] | None = None
        self.engine = create_engine(with_driver(self.storage), poolclass=NullPool)
        self.witness = folder / "witness"
        self.witness.mkdir()

    def run(self, strikes: int, seconds: float) -> None:
        """Strike so often, or as often as that time allows; then let the last study end in peace."""
        self._next_study()
        deadline = time.monotonic() + seconds
        while sum(self.strikes.values()) < strikes and time.monotonic() < deadline:
            self._start_if_needed()
            time.sleep(self.random.uniform(0.2, 3.0))
            if self._drives() and self._trials(self.names[-1], "running") and self._strike():
                self._check_finished()
        self._striking = False
        while self._start_if_needed():
            time.sleep(0.5)

    def _next_study(self) -> None:
        name = f"chaos{len(self.names)}"
        document = {
            "schema": "naslab.study/1",
            "name": name,
            "seeds": [0],
            "space": {"name": "chaos_space:Space"},
            "task": {"witness": str(self.witness)},
            "arms": [{"name": "random", "engine": "optuna", "sampler": "random", "trials": 40}],
            "random_architectures": 2,
            # Strikes are no fault of a trial, but a worker that is killed looks as one that ran out of memory.
            "limits": {"attempts": 1000},
            "executor": self.executor,
        }
        (self.folder / f"{name}.yaml").write_text(json.dumps(document))
        self.names.append(name)

    def _start_if_needed(self) -> bool:
        """Start a driver if none runs; whether there is something to wait for."""
        code = None if self.driver is None else self.driver.poll()
        if self.driver is not None and code is None:
            return True
        if code == 0:
            if self._striking:
                self._next_study()
            else:
                return False
        elif code not in (None, 130, -signal.SIGKILL, -signal.SIGTERM):
            raise SystemExit(f"the driver ended with {code}: {(self.folder / 'driver.log').read_text()[-2000:]}")
        self._start()
        return True

    def _start(self) -> None:
        slots = str(self.random.randint(1, 4))
        command = [sys.executable, "-m", "naslab", "run", f"{self.names[-1]}.yaml", "--storage", self.storage]
        paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                [*command, "--slots", slots],
                cwd=self.folder, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths},
            )  # fmt: skip
        self.starts += 1

    def _drives(self) -> bool:
        """Whether the driver has come so far as to hold the study: what it finds running is its own."""
        assert self.driver is not None
        try:
            with self.engine.connect() as connection:
                last = "select holder from naslab_sessions where study = :name order by token desc limit 1"
                holder = connection.scalar(text(last), {"name": self.names[-1]})
        except SQLAlchemyError:  # not made yet
            return False
        return holder is not None and json.loads(holder)["pid"] == self.driver.pid

    def _strike(self) -> bool:
        """Whether anything was struck."""
        victim = self.random.choice(self.victims)
        how = self._strike_process(victim, self._processes(victim))
        if how is not None:
            self.strikes[f"{how} of a {victim}"] += 1
        return how is not None

    def _processes(self, victim: str) -> list[int]:
        assert self.driver is not None
        return [self.driver.pid] if victim == "driver" else workers_of([self.driver.pid])

    def _strike_process(self, victim: str, pids: Sequence[int]) -> str | None:
        """The signal that one of the processes got."""
        assert self.driver is not None
        if not pids:
            return None
        pid, sent = self.random.choice(pids), self.random.choice(SIGNALS)
        try:
            os.kill(pid, getattr(signal, sent))
            if sent == "SIGSTOP":
                time.sleep(self.random.uniform(0.1, 3.0))
                os.kill(pid, signal.SIGCONT)
            elif victim == "driver":
                self.driver.wait(120)
        except ProcessLookupError:
            return None
        return sent

    def _check_finished(self) -> None:
        for trial in self._trials(self.names[-1], "complete"):
            self.finished.setdefault((self.names[-1], trial.job.key), trial.number)

    def _trials(self, name: str, state: str) -> list[Trial]:
        try:
            return [t for t in Ledger.open(self.storage, name).trials() if t.state == state]
        except InputError:  # not made yet
            return []

    def result(self) -> dict[str, Any]:
        """What came of it."""
        ledgers = [Ledger.open(self.storage, name) for name in self.names]
        complete = Counter((ledger.study.name, t.job.key) for ledger in ledgers for t in _complete(ledger))
        numbers = {(ledger.study.name, t.job.key): t.number for ledger in ledgers for t in _complete(ledger)}
        documents = [status(ledger) for ledger in ledgers]
        slot_seconds = sum(document["slot_seconds"] for document in documents)
        charged = sum(document["device_seconds"]["by_phase"].get("train", 0.0) for document in documents)
        witnessed = sum(_witnessed(path) for path in self.witness.iterdir())
        return {
            "strikes": dict(sorted(self.strikes.items())),
            "drivers_started": self.starts,
            "studies": len(self.names),
            "trials": sum((Counter(document["trials"]) for document in documents), Counter()),
            "finished_lost": sum(numbers.get(key) != number for key, number in self.finished.items()),
            "finished_repeated": sum(number > 1 for number in complete.values()),
            "given_up": sum(len(document["failures"]) for document in documents),
            "slot_seconds": slot_seconds,
            "train_seconds_charged": charged,
            "train_seconds_witnessed": witnessed,
            "difference_share": (charged - witnessed) / slot_seconds,
            "difference_share_of_training": (charged - witnessed) / charged if charged else 0.0,
            "least_unaccounted_seconds": min(document["unaccounted"] for document in documents),
        }


def _complete(ledger: Ledger) -> list[Trial]:
    return [t for t in ledger.trials() if t.state == "complete"]


def _witnessed(path: Path) -> float:
    lines = [float(line) for line in path.read_text().splitlines() if line]
    return lines[-1] - lines[0] if lines else 0.0


def workers_of(holders: Collection[int]) -> list[int]:
    """Worker processes that these have started. They are copies of a process that is not struck, nor is the guard."""
    known = list(processes())
    copied = {pid for pid, parent, command in known if parent in holders and b"forkserver" in command}
    return [pid for pid, parent, _ in known if parent in copied]


def processes() -> Iterator[tuple[int, int, bytes]]:
    """Every process of this machine: its number, its parent's and its command."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue


def strike_and_write(chaos: Chaos, given: argparse.Namespace) -> None:
    """Strike, check, and write the result file."""
    chaos.run(given.strikes, 60 * given.minutes)
    found = chaos.result()
    print(json.dumps(found, indent=2))
    assert found["finished_lost"] == found["finished_repeated"] == found["given_up"] == 0
    assert abs(found["difference_share"]) <= 0.01
    assert found["least_unaccounted_seconds"] >= 0
    write_result(given.out, {"schema": "naslab.chaos/1", "seed": given.seed, **found})


def options(about: str, strikes: int, out: str) -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--strikes", type=int, default=strikes)
    parser.add_argument("--minutes", type=float, default=60.0, help="as many strikes as fit, then")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser.parse_args()


def main() -> None:
    """Strike."""
    given = options(__doc__, 200, "benchmarks/results/chaos.json")
    with tempfile.TemporaryDirectory() as folder:
        strike_and_write(Chaos(Path(folder), given.seed), given)


if __name__ == "__main__":
    main()
