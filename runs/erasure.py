"""Bulk changes to the rows of a study, which Optuna lacks or does slowly: each is one commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.storages import BaseStorage
from sqlalchemy import and_, column, delete, func, select, table, update

from naslab.runs.lease import SESSIONS, engine_of
from naslab.runs.records import STUDIES, TRIALS

OF_TRIALS = ("user_attributes", "system_attributes", "params", "values", "intermediate_values", "heartbeats")
OF_STUDIES = ("user_attributes", "system_attributes", "directions")
STUDY_ATTRIBUTES = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))


def erase_studies(storage: BaseStorage, ids: Sequence[int]) -> None:
    """Remove all that Optuna's tables hold of the Optuna studies with these ids."""
    trials = select(TRIALS.c.trial_id).where(TRIALS.c.study_id.in_(ids))
    with engine_of(storage).begin() as connection:
        for name in OF_TRIALS:
            rows = table(f"trial_{name}", column("trial_id"))
            connection.execute(delete(rows).where(rows.c.trial_id.in_(trials)))
        connection.execute(delete(TRIALS).where(TRIALS.c.study_id.in_(ids)))
        for name in OF_STUDIES:
            rows = table(f"study_{name}", column("study_id"))
            connection.execute(delete(rows).where(rows.c.study_id.in_(ids)))
        connection.execute(delete(STUDIES).where(STUDIES.c.study_id.in_(ids)))


def rename_studies(storage: BaseStorage, names: Mapping[str, str], record: Mapping[str, Any]) -> None:
    """Give Optuna studies their new names, the first of them its new record, and their drivers' sessions with it.

    The session of the caller, who holds the lease under the old name, is the last one, and stays.
    """
    old, new = next(iter(names.items()))
    with engine_of(storage).begin() as connection:
        for name, other in names.items():
            connection.execute(update(STUDIES).where(STUDIES.c.study_name == name).values(study_name=other))
        (main,) = connection.execute(select(STUDIES.c.study_id).where(STUDIES.c.study_name == new)).one()
        kept = and_(STUDY_ATTRIBUTES.c.study_id == main, STUDY_ATTRIBUTES.c.key == "naslab")
        connection.execute(update(STUDY_ATTRIBUTES).where(kept).values(value_json=json.dumps(record)))
        connection.execute(delete(SESSIONS).where(SESSIONS.c.study == new))  # left by one that is no more
        last = select(func.max(SESSIONS.c.token)).where(SESSIONS.c.study == old).scalar_subquery()
        earlier = and_(SESSIONS.c.study == old, SESSIONS.c.token < last)
        connection.execute(update(SESSIONS).where(earlier).values(study=new))
