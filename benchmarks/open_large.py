"""How long a study of 10,000 trials takes to open, to rank and to go on with, and the memory that it holds.

Usage: python benchmarks/open_large.py [--trials 10000] [--out benchmarks/results/open_large.json]

One proposal is recorded as the driver records it; its rows are then copied in the database, with numbers and keys of
their own. All steps are timed in a new process. Goals at 10,000 trials: `Ledger.open` and reading all
trials in at most 5 s, and memory that grows by what the trials themselves take.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from driver_overhead import EXAMPLES, study_document
from results_file import write_result

from naslab.runs.ledger import Ledger
from naslab.runs.past import Past
from naslab.runs.plan import _proposals
from naslab.runs.study import parse_study

STEPS = """
import json, resource, sys, time
import torch
from naslab.runs.ledger import Ledger
from naslab.runs.past import Past
from naslab.runs.plan import plan_next
from naslab.runs.ranking import rank
from naslab.runs.status import status
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found, clock = {}, time.perf_counter
def timed(name, call):
    start = clock()
    answer = call()
    found[name] = clock() - start
    return answer
ledger = timed("open", lambda: Ledger.open(sys.argv[1], "overhead"))
trials = timed("read", ledger.trials)
found["trials"] = len(trials)
found["megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
timed("read_again", ledger.trials)
timed("status", lambda: status(ledger))
task = ledger.study.make_task(torch.device("cpu"))
past = timed("past", lambda: Past(ledger.study, task.metric, trials))
timed("plan", lambda: plan_next(past, task.controls()))
timed("rank", lambda: rank(ledger.study, trials))
print(json.dumps(found))
"""
TABLES = ("trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes")
"""Those of Optuna's tables that hold a trial's rows, each with a key of its own that the database gives."""


def make(storage: Path, trials: int) -> None:
    """A study of so many proposals that have ended, all of them alike."""
    study = parse_study(study_document("random", trials), "the benchmark's study")
    task = study.make_task(torch.device("cpu"))
    ledger = Ledger.start(str(storage), study)
    with ledger.hold(1):
        job = next(_proposals(Past(study, task.metric), study.arms[0], ()))
        trial_id, _ = ledger.begin(job)
        scores = {f"validation_{task.metric}": 0.5}
        rungs = [{"epoch": epoch, "device_seconds": 0.1 * epoch, "scores": {task.metric: 0.5}} for epoch in range(1, 6)]
        spent = {"train": 0.5, "evaluate": 0.1}
        facts = {
            "scores": scores,
            "rungs": rungs,
            "seconds": spent,
            "core_seconds": spent,
            "threads": 1,
            "device": "cpu",
        }
        ledger.finish(trial_id, "complete", {**facts, "result": {"metric": task.metric}})
    with sqlite3.connect(storage) as database:
        (home,) = database.execute("select study_id from studies where study_name = ?", (study.name,)).fetchone()
        (source,) = database.execute("select trial_id from trials where study_id = ?", (home,)).fetchone()
        first = database.execute("select max(trial_id) from trials").fetchone()[0] + 1
        _copy(database, source, [(first + i, number) for i, number in enumerate(range(1, trials))])


def _copy(database: sqlite3.Connection, source: int, copies: list[tuple[int, int]]) -> None:
    """Every row of the trial `source`, for each new id and number."""
    columns = [row[1] for row in database.execute("pragma table_info(trials)")]
    trial = dict(
        zip(columns, database.execute("select * from trials where trial_id = ?", (source,)).fetchone(), strict=True)
    )
    _insert(
        database, "trials", [{**trial, "trial_id": new, "number": index} for index, (new, _) in enumerate(copies, 1)]
    )
    for table in TABLES:
        facts = database.execute(f"pragma table_info({table})").fetchall()
        columns, keys = [fact[1] for fact in facts], {fact[1] for fact in facts if fact[5]}
        found = database.execute(f"select * from {table} where trial_id = ?", (source,))
        rows = [dict(zip(columns, row, strict=True)) for row in found]
        made = [
            _renamed({**row, "trial_id": new}, number, index)
            for index, (new, number) in enumerate(copies, 1)
            for row in rows
        ]
        _insert(database, table, [{k: v for k, v in row.items() if k not in keys} for row in made])


def _renamed(row: dict[str, Any], number: int, index: int) -> dict[str, Any]:
    """A user attribute with the copy's own number and key; another row as it is."""
    match row.get("key"):
        case "number":
            return {**row, "value_json": json.dumps(number)}
        case "job":
            job = json.loads(row["value_json"])
            job["key"] = f"{job['key'].rpartition('/')[0]}/{index}"
            return {**row, "value_json": json.dumps(job)}
    return row


def _insert(database: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        names = list(rows[0])
        marks = ", ".join("?" for _ in names)
        statement = f"insert into {table} ({', '.join(names)}) values ({marks})"
        database.executemany(statement, [[row[name] for name in names] for row in rows])


def main() -> None:
    """Make the study, time each step in a new process, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/open_large.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder, "naslab.db")
        make(storage, arguments.trials)
        paths = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
        steps = subprocess.run(
            [sys.executable, "-c", STEPS, str(storage)],
            check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        found = {**json.loads(steps.stdout), "database_megabytes": storage.stat().st_size / 1e6}
    print(json.dumps(found, indent=2))
    write_result(arguments.out, {"schema": "naslab.open_large/1", **found})


if __name__ == "__main__":
    main()
