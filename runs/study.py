"""The study file: read, overridden and validated here, once."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from naslab.efficiency.targets import target_name
from naslab.errors import InputError
from naslab.nas.arms import Arm, Differentiable, Grid, Sampled
from naslab.nas.grid import grid_points
from naslab.nas.names import Name, Names
from naslab.nas.racing import Looks
from naslab.nas.sampling import check_sampler, enqueued
from naslab.nas.statistics import Critical, student
from naslab.runs.constraints import Constraints
from naslab.runs.executors.options import ExecutorChoice, Local, gpus_of
from naslab.runs.extras import check_installed
from naslab.runs.loggers.choice import LoggerChoice, named_loggers, no_logger_twice
from naslab.runs.objective import Objective, Ranking
from naslab.runs.shipped import find_study_file
from naslab.runs.storage_url import shown
from naslab.runs.yaml_text import read_yaml
from naslab.search_spaces import Configuration, Options, SearchSpace, Task, explain, find_space, make_task
from naslab.search_spaces.find import told
from naslab.search_spaces.options import RECORDED

SCHEMA = "naslab.study/1"
Seed = Annotated[int, Field(ge=0)]
MOST_BYTES = 1_000_000
"""More than any study file has."""
MOST_OF_A_RACE = 100
"""Seeds of a row where seeds race: its bounds are simulated look by look."""


RACE = f"a race is written {{from: 3, to: 12}}, from 2 or more to a larger number, at most {MOST_OF_A_RACE}"


def _may_race(first: object, last: object) -> bool:
    whole = type(first) is int and type(last) is int
    return whole and 2 <= first < last <= MOST_OF_A_RACE  # type: ignore[operator]


class SpaceChoice(Options):
    """Which space, from which preset, with which of its own options changed."""

    name: str
    preset: str | None = None
    options: dict[str, Any] = {}


class Limits(Options):
    """When to stop: a trial, a study that only fails, or all of it."""

    trial_hours: float | None = Field(None, gt=0)
    """The longest that one run may hold a slot; it then ends as `timed_out`."""
    failures_in_a_row: int = Field(10, ge=1)
    """So many trials that fail one after the other, in the same way, stop the study."""
    attempts: int = Field(5, ge=1)
    """So many deaths of its worker in a row, without a further rung, and a trial is given up."""
    gpu_hours: float | None = Field(None, gt=0)
    """Device hours of the whole study over all its slots and runs; then every trial stops at its next rung."""


class Study(Options):
    """A whole study file. `space` and `task` options are validated by the space that they name."""

    schema_: Literal["naslab.study/1"] = Field(alias="schema")
    name: Name
    description: str = ""
    seed: Seed = 0
    """Everything random derives from it."""
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)
    """Seeds with which the reference and every finalist are trained; intervals are over them."""
    race_to: int | None = Field(None, ge=3)
    """Most seeds of a row where seeds race: `seeds: {from: 3, to: 12}` stands for the seeds 0, 1, 2 and this."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    space: SpaceChoice
    task: dict[str, Any] = {}
    arms: tuple[Arm, ...] = ()
    finalists: int = Field(1, ge=1)
    """How many of each arm's best are retrained with every seed."""
    random_architectures: int = Field(4, ge=0)
    """Size of the random baseline that every search is held against; a study of sweeps alone may set 0."""
    constraints: Constraints = Constraints()
    """What a configuration may cost at most, checked before it is trained."""
    objective: Objective = Objective()
    ranking: Ranking = Ranking()
    executor: ExecutorChoice = Local()
    """Where trials run."""
    limits: Limits = Limits()
    """When a trial, or the study, is to be stopped."""
    loggers: Annotated[tuple[LoggerChoice, ...], BeforeValidator(named_loggers), AfterValidator(no_logger_twice)] = ()
    """Where trials are shown beside the ledger, such as `[tensorboard]`."""
    predict_for: tuple[str, ...] = ()
    """Devices of the table (`naslab devices`), or "cpu" for this machine's processor, for which hours are predicted,
    beside those that are measured.
    """
    reuse: Names = ()
    """Other studies in the same storage whose equal finished trials stand for this one's."""
    beside: Names = ()
    """Other studies in the same storage whose results stand in this one's ranking."""
    _recorded: bool = PrivateAttr(False)
    """It is from a storage, where an older version may have kept options without effect."""

    @field_validator("predict_for")
    @classmethod
    def _devices_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(map(target_name, names)))
        except InputError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _seeds_may_race(cls, values: Any) -> Any:
        """`seeds: {from: N, to: M}` as the first seeds and the most of them."""
        seeds = values.get("seeds") if isinstance(values, dict) else None
        if not isinstance(seeds, dict):
            return values
        first, last = seeds.get("from"), seeds.get("to")
        if seeds.keys() != {"from", "to"} or not _may_race(first, last):
            raise ValueError(f"seeds: {RACE}")
        return {**values, "seeds": list(range(int(first or 0))), "race_to": last}

    @model_validator(mode="after")
    def _executor_has_the_device(self) -> Study:
        if not isinstance(self.executor, Local):
            gpus_of(self.executor, self.device)
        return self

    @model_validator(mode="after")
    def _arms_are_sound(self) -> Study:
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two arms are named {name!r}; names must differ")
        if self.name in self.beside:
            raise ValueError(f"beside: {self.name!r} is this study; name others")
        if self.name in self.reuse:
            raise ValueError(f"reuse: {self.name!r} is this study; name others")
        first = len(self.seeds)
        if self.race_to is not None and not (self.seeds == tuple(range(first)) and _may_race(first, self.race_to)):
            raise ValueError(f"race_to: {self.race_to} does not go with seeds {list(self.seeds)}; {RACE} at `seeds`")
        if self.objective.direction == "minimize" and self.objective.kind == "per_hour" and self.ranking.by == "score":
            raise ValueError(
                "objective.direction: a loss per hour would reward a large loss; with minimize use ranking.by: gain "
                "or objective.kind: pareto"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat; each may stand once")
        for arm in self.arms:
            if isinstance(arm, Sampled) and arm.trials is None and arm.device_hours is None:
                raise ValueError(f"arm {arm.name!r} needs a budget: trials or device_hours")
            if isinstance(arm, Sampled) and arm.finalists_by != "score" and self.objective.direction == "minimize":
                raise ValueError(
                    f"arm {arm.name!r}: finalists_by score_per_hour would pick the largest loss; use score"
                )
            if isinstance(arm, Sampled) and arm.finalists_by != "score" and self.objective.kind == "pareto":
                raise ValueError(f"arm {arm.name!r}: finalists_by goes with objective per_hour; pareto takes the front")
        return self

    @property
    def critical(self) -> Critical:
        """By how many standard errors the intervals of this study reach."""
        return self.critical_of(1)

    def critical_of(self, claims: int) -> Critical:
        """The same where one of so many claims is picked for being the largest (Bonferroni)."""
        alone = partial(student, level=1 - 0.05 / max(claims, 1))
        if self.race_to is None:
            return alone
        looks = Looks(len(self.seeds), self.race_to)
        return lambda seeds: max(looks.critical(seeds), alone(seeds))

    def margin(self, metric: str, floor: float) -> float:
        """By how much a row may be worse than `floor`: as the file says, or 1 point of a percentage, else 1 %."""
        if self.ranking.margin is not None:
            return self.ranking.margin
        return 1.0 if metric in self.search_space.Task.percentages else 0.01 * abs(floor)

    @cached_property
    def search_space(self) -> SearchSpace:
        """The space with its options.

        Raises:
            InputError: see `find_space`.
        """
        return find_space(self.space.name, self.space.preset, self.space.options, self._recorded)

    @cached_property
    def grids(self) -> dict[str, tuple[Configuration, ...]]:
        """The points of every grid arm, by its name.

        Raises:
            InputError: see `grid_points`.
        """
        return {arm.name: grid_points(arm, self.search_space) for arm in self.arms if isinstance(arm, Grid)}

    def check_arms(self) -> None:
        """Refuse, before anything is written, an arm that cannot search or sweep the space.

        Raises:
            InputError: a point or an enqueued configuration that the space does not have; a sampler that is missing, or
                cannot take the space or the objective; a pruner where the objective is a front.
        """
        _ = self.grids
        front = self.objective.kind == "pareto"
        for arm in self.arms:
            if isinstance(arm, Sampled):
                check_sampler(arm, self.search_space, front)
                if front and arm.pruner != "none":
                    raise InputError(
                        f"arm {arm.name}: pruner {arm.pruner} knows the score alone, and would stop points of the "
                        "front; with objective pareto use pruner: none"
                    )

    def check_packages(self) -> None:
        """Refuse, before anything is written, an executor or a logger whose package is not installed.

        Raises:
            InputError: how it is installed.
        """
        check_installed(f"executor: {self.executor.kind}", self.executor.kind, *self.executor.packages)
        for index, logger in enumerate(self.loggers):
            check_installed(f"loggers.{index}", logger.kind, *logger.packages)

    def make_task(self, device: torch.device) -> Task:
        """The task on `device`.

        Raises:
            InputError: see `make_task`; or a ranking that asks for the gain over a control that the task does not have.
        """
        task = make_task(self.search_space, self.task, device, self._recorded)
        base = self.ranking.gain_over
        if base != "reference" and base not in (names := [control.name for control in task.controls()]):
            raise InputError(
                f"ranking.gain_over: {base!r} is no control of this task; use {', '.join(names)} or reference"
            )
        return task

    def make_checked_task(self, device: torch.device) -> Task:
        """The task on `device`, whose data bears every point that the study names.

        Raises:
            InputError: see `make_task`; a point of a grid, or an enqueued one, that its data does not bear; or a search
                by gradient that the space or the task does not allow.
        """
        task = self.make_task(device)
        for arm in self.arms:
            enqueue = enqueued(arm, self.search_space) if isinstance(arm, Sampled) else ()
            try:
                for point in self.grids.get(arm.name, enqueue):
                    told(f"task of space {self.search_space.name}", partial(task.check, point))
                if isinstance(arm, Differentiable):
                    from naslab.nas.differentiable import searchable  # slow to import, and few studies need it

                    searchable(self.search_space, task, arm)
            except InputError as error:
                raise InputError(f"arm {arm.name}: {error}") from None
        return task

    def document(self) -> dict[str, Any]:
        """The study as plain values with every default filled in, as the ledger keeps it."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def digest(self) -> str:
        """Content hash of everything that decides the results, so without description, limits and the like."""
        document = {k: v for k, v in self.document().items() if k not in _WITHOUT_EFFECT}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


_WITHOUT_EFFECT = ("description", "executor", "limits", "loggers", "predict_for", "reuse")


def load_study(path: Path, overrides: list[str] | None = None) -> Study:
    """Read a study file, or by its name a study that ships, and apply `a.b=c` overrides.

    Values are YAML; list items go by index.

    Raises:
        InputError: no such file, not YAML, an unknown key or impossible value, an older or newer schema.
    """
    path = find_study_file(path)
    try:
        document = read_yaml(_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split()).replace(_NAMELESS, '')}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: a study file is a mapping of keys to values, this one is not")
    for override in overrides or []:
        _override(document, override)
    return parse_study(document, str(path))


_NAMELESS = 'in "<unicode string>", '
"""How YAML calls what it was given."""


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)  # it may have no end
        if len(content) > MOST_BYTES:
            raise InputError(f"{path}: no study file: larger than {MOST_BYTES:,} bytes")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def parse_study(document: dict[str, Any], where: str, recorded: bool = False) -> Study:
    """Validate a study given as plain values; `where` opens every error message.

    Args:
        recorded: it is from a storage, where an older version may have kept options without effect.

    Raises:
        InputError: as for `load_study`.
    """
    schema = document.get("schema")
    if schema != SCHEMA:
        problem = "has no 'schema' key" if schema is None else f"has schema {schema!r}"
        raise InputError(f"{where}: {problem}; this version reads {SCHEMA!r} (see docs/studies.md for changes)")
    try:
        study = Study.model_validate(document, context=RECORDED if recorded else None)
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error)}") from None
    study._recorded = recorded
    return study


def _override(document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    override = shown(override)
    if not equals or not path:
        raise InputError(f"--set {override}: write it as a.b=value")
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        raise InputError(f"--set {override}: {shown(text)!r} is not a YAML value") from None
    *parents, last = path.split(".")
    node: Any = document
    for part in parents:
        node = _step(node, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise InputError(f"--set {override}: {'.'.join(parents)} holds a single value, it has no {last!r}")


def _step(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if isinstance(node, dict):
        return node.setdefault(part, {})
    raise InputError(f"--set {override}: the value before {part!r} is a single value, it has no keys")


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise InputError(f"--set {override}: {part!r} is not an index into a list of {len(items)}")
    return int(part)
