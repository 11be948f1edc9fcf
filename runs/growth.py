"""What may change in a study and its space between two runs, and how records stay readable."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage
from sqlalchemy import MetaData, Table, and_, select, update

from naslab.errors import InputError
from naslab.nas.encoding import distributions
from naslab.runs.lease import engine_of
from naslab.runs.records import TRIALS
from naslab.runs.study import Study
from naslab.runs.trial import Trial
from naslab.search_spaces import Configuration

GROWABLE = frozenset(
    {
        "description",
        "seeds",
        "arms",
        "finalists",
        "random_architectures",
        "ranking",
        "limits",
        "loggers",
        "beside",
        "reuse",
        "device",
        "executor",
    }
)
"""What may change between two runs of a study: more of something, or how results are read."""


def check_same(recorded: Study, asked: Study, begun: Collection[str | None]) -> None:
    """Refuse a study file that asks for something else than what was recorded under its name.

    Args:
        begun: arms that have trials; any other may change or go.

    Raises:
        InputError: what changed, and what may.
    """
    old, new = recorded.document(), asked.document()
    changed = sorted(key for key in old if old[key] != new.get(key) and key not in GROWABLE)
    if changed:
        raise InputError(
            f"study {asked.name!r} exists with other settings ({', '.join(changed)} changed); give the study another "
            f"name, or put these back; {', '.join(sorted(GROWABLE))} may change"
        )
    arms = {arm["name"]: arm for arm in new["arms"]}
    for arm in (arm for arm in old["arms"] if arm["name"] in begun):
        now = arms.get(arm["name"])
        budget = ("trials", "device_hours", "searches")
        if now is None or any(not _grown(key, arm[key], now.get(key)) for key in arm if key not in budget):
            raise InputError(
                f"study {asked.name!r}: arm {arm['name']!r} has results and may not change or go; only its "
                f"{', '.join(budget)} and the values of a grid may grow; give the changed arm another name"
            )


def _grown(key: str, old: Any, new: Any) -> bool:
    """Whether an arm's setting is as it was, or a grid that has more values of the same parameters."""
    if key != "vary" or not isinstance(new, dict):
        return bool(old == new)
    return old.keys() == new.keys() and all(value in new[name] for name in old for value in old[name])


def recorded_configuration(space: str, values: Mapping[str, Any]) -> Configuration:
    """A configuration as it was recorded, whatever the space says of it today."""
    items = ((name, tuple(value) if isinstance(value, list) else value) for name, value in values.items())
    return Configuration(space, tuple(items))


def check_readable(study: Study, trials: Iterable[Trial]) -> None:
    """Refuse to go on in a space that is no longer the one of the records: other choices may come, none may go.

    Raises:
        InputError: a recorded configuration that the space would not take, or would take for another one.
    """
    space = study.search_space
    recorded = {t.job.configuration: t for t in trials if t.job.configuration is not None}
    for configuration, trial in recorded.items():
        try:
            same = space.configuration(configuration) == configuration
            why = "it stands for another configuration now"
        except InputError as error:
            same, why = False, str(error)
        if not same:
            raise InputError(
                f"study {study.name!r}: space {space.name} has changed since trial {trial.number}: {why}; results can "
                "still be read, but to go on, give the study another name or put the space back"
            )


def widen_distributions(storage: BaseStorage, study: Study, homes: Sequence[int]) -> None:
    """Let recorded trials say that a parameter is what it is now: Optuna allows one kind of it a study.

    Only for a storage that this process holds, and a space that `check_readable` has passed.

    Args:
        homes: ids of the Optuna studies whose trials these are.
    """
    now = {n: d for p in study.search_space.parameters for n, d in distributions(p, proposed_only=False).items()}
    engine = engine_of(storage)
    table = Table("trial_params", MetaData(), autoload_with=engine)
    (key,), params = table.primary_key.columns, table.c
    ours = params.trial_id.in_(select(TRIALS.c.trial_id).where(TRIALS.c.study_id.in_(homes)))
    with engine.begin() as connection:
        kinds = select(params.param_name, params.distribution_json).where(ours).distinct()
        for name, text in connection.execute(kinds).all():
            old = json_to_distribution(text)
            if name not in now or old == now[name]:
                continue
            alike = and_(ours, params.param_name == name, params.distribution_json == text)
            for row, stored in connection.execute(select(key, params.param_value).where(alike)).all():
                wide = {
                    "param_value": now[name].to_internal_repr(old.to_external_repr(stored)),
                    "distribution_json": distribution_to_json(now[name]),
                }
                connection.execute(update(table).where(key == row).values(**wide))
