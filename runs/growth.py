"""Growth: what of a study, and of its space, may change between two runs, and what keeps its records readable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from sqlalchemy import MetaData, Table, select, update

from naslab.errors import InputError
from naslab.nas.encoding import distributions
from naslab.runs.lease import engine_of
from naslab.runs.study import Study
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
        "beside",
        "reuse",
        "device",
    }
)
"""What may change between two runs of a study: more of something, or how results are read."""


def check_same(recorded: Study, asked: Study) -> None:
    """Refuse a study file that asks for something else than what was recorded under its name.

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
    for arm in old["arms"]:
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


def check_readable(study: Study, trials: Iterable[FrozenTrial]) -> None:
    """Refuse to go on in a space that is no longer the one of the records: other choices may come, none may go.

    Raises:
        InputError: a recorded configuration that the space would not take, or would take for another one.
    """
    space = study.search_space
    recorded = {recorded_configuration(space.name, v): t for t in trials if (v := t.user_attrs["job"]["configuration"])}
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


def widen_distributions(storage: BaseStorage, study: Study, trials: Iterable[FrozenTrial]) -> None:
    """Let recorded trials say that a parameter has the choices that it has now: Optuna allows one set of them a study.

    Only for a storage that this process holds, and a space that `check_readable` has passed.
    """
    now = {n: d for p in study.search_space.parameters for n, d in distributions(p, proposed_only=False).items()}
    old = {(t._trial_id, name) for t in trials for name, d in t.distributions.items() if _is_narrower(d, now.get(name))}
    if not old:
        return
    engine = engine_of(storage)
    table = Table("trial_params", MetaData(), autoload_with=engine)
    with engine.begin() as connection:
        for trial_id, name in old:
            row = (table.c.trial_id == trial_id) & (table.c.param_name == name)
            stored = connection.execute(select(table.c.param_value, table.c.distribution_json).where(row)).one()
            value = json_to_distribution(stored.distribution_json).to_external_repr(stored.param_value)
            wide = {
                "param_value": now[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(now[name]),
            }
            connection.execute(update(table).where(row).values(**wide))


def _is_narrower(old: object, new: object) -> bool:
    both = isinstance(old, CategoricalDistribution) and isinstance(new, CategoricalDistribution)
    return both and old != new
