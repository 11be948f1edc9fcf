"""The attempts of a study in a storage: two of Optuna's tables, read in two queries.

Optuna itself reads a trial as an object with all that six tables say of it: ten times as long, and it stays in memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import Select, and_, column, select, table

from naslab.runs.lease import engine_of

STUDIES = table("studies", column("study_id"), column("study_name"))
TRIALS = table("trials", column("trial_id"), column("study_id"), column("number"), column("state"))
ATTRIBUTES = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))
JOB, OUTCOME, NUMBER, JUDGED = "job", "outcome", "number", "judged"
"""Names of a trial's attributes."""
DELETING, DONE = "deleting", "done"
"""Of a study's record: it is being deleted; its driver found nothing left to do."""


@dataclass(frozen=True)
class Record:
    """One attempt as it is stored, in plain values."""

    trial_id: int
    """Optuna's."""
    number: int
    """The ledger's; databases of the first version have one Optuna study, and Optuna's number."""
    has_ended: bool
    job: dict[str, Any]
    outcome: dict[str, Any] | None
    """What came of it: written before its end is."""


def read_records(storage: BaseStorage, homes: Sequence[int], known: Collection[int] = ()) -> list[Record]:
    """The attempts of the Optuna studies `homes`, but for those with the ids `known`; in no order.

    A trial that another program put there is none of ours.
    """
    # Ends first: whoever has ended by then has its outcome in the second answer.
    ends = {row.trial_id: row for row in _rows(storage, select(TRIALS).where(TRIALS.c.study_id.in_(homes)))}
    new = ends.keys() - set(known)
    if not new:
        return []
    facts: dict[int, dict[str, Any]] = {trial_id: {} for trial_id in new}
    asked = _attributes(homes, (JOB, OUTCOME, NUMBER)).where(ATTRIBUTES.c.trial_id >= min(new))
    for trial_id, key, text in _rows(storage, asked):
        if trial_id in facts:
            facts[trial_id][key] = json.loads(text)
    return [
        Record(
            trial_id=trial_id,
            number=found.get(NUMBER, ends[trial_id].number),
            has_ended=TrialState[ends[trial_id].state].is_finished(),
            job=found[JOB],
            outcome=_in_words_of_today(found.get(OUTCOME)),
        )
        for trial_id, found in facts.items()
        if JOB in found
    ]


def _in_words_of_today(outcome: dict[str, Any] | None) -> dict[str, Any] | None:
    """An earlier version said `killed` for `interrupted`."""
    return {**outcome, "state": "interrupted"} if outcome and outcome["state"] == "killed" else outcome


def read_judgements(storage: BaseStorage, homes: Sequence[int]) -> list[dict[str, Any]]:
    """What was decided at rungs, of every attempt, in plain values."""
    return [facts for _, _, text in _rows(storage, _attributes(homes, (JUDGED,))) for facts in json.loads(text)]


def find_trial(storage: BaseStorage, home: int, number: int) -> int | None:
    """Optuna's id of the ledger's trial `number` in the Optuna study `home`, None where it has none.

    Whoever makes a trial locks the row of its study first and until the end. With the same lock held, a trial that was
    asked for on a connection that is broken now is either there or will never be.
    """
    wanted = _attributes([home], [NUMBER]).where(ATTRIBUTES.c.value_json == json.dumps(number))
    with engine_of(storage).begin() as connection:
        connection.execute(select(STUDIES.c.study_id).where(STUDIES.c.study_id == home).with_for_update())
        row = connection.execute(wanted).first()
    return None if row is None else int(row.trial_id)


def _attributes(homes: Sequence[int], keys: Sequence[str]) -> Select[Any]:
    chosen = and_(TRIALS.c.study_id.in_(homes), ATTRIBUTES.c.key.in_(keys))
    return select(ATTRIBUTES).join(TRIALS, TRIALS.c.trial_id == ATTRIBUTES.c.trial_id).where(chosen)


def _rows(storage: BaseStorage, asked: Select[Any]) -> Sequence[Any]:
    with engine_of(storage).connect() as connection:
        return connection.execute(asked).all()
