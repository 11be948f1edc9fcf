"""Whether an option has an effect: applicable options are changed until the result differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import torch
from torch import nn

from naslab.efficiency.inputs import Inputs, call_model, tensors_in
from naslab.errors import InputError
from naslab.search_spaces import (
    Configuration,
    Mechanical,
    Options,
    SearchSpace,
    Task,
    find_space,
    make_task,
    seed_everything,
)
from naslab.testing.subject import BATCH, SEED, Broken, Subject, objective

NUMBERS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 0.1, 0.5, 1e-3)
"""What is tried in place of nothing."""
FACTORS = (1e-6, 0.5, 2.0)
"""What a number is tried times, the most telling first: a bound far away has an effect only when it comes near."""
SPLITS: tuple[Literal["validation", "test"], ...] = ("validation", "test")
Made = TypeVar("Made", SearchSpace, Task)


def space_options_have_an_effect(subject: Subject) -> None:
    """Every option of the space that applies changes what may vary, is built or trained, at some other value.

    Names, paths and lists are left out, and what is refused at every value that is tried; so with the task's.
    """
    make = partial(find_space, subject.name, subject.preset)
    _check("space", subject.space, make, dict(subject.options or {}), partial(_space_facts, subject))


def task_options_have_an_effect(subject: Subject) -> None:
    """Every option of the task that applies changes a budget, a training, a score or a control, at some other value."""
    make = partial(make_task, subject.space, device=torch.device("cpu"))
    _check("task", subject.task, make, dict(subject.task_options or {}), partial(_task_facts, subject))


def _check(
    where: str,
    made: Made,
    make: Callable[[dict[str, Any]], Made],
    given: dict[str, Any],
    facts: Callable[[Made], Iterator[Any]],
) -> None:
    own: list[Any] = []
    source = facts(made)
    for path, values in _changes(made.options):
        others = (_allowed(make, _with(given, path, value)) for value in values)
        if not _one_differs(own, source, (facts(other) for other in others if other is not None)):
            raise Broken(f"{where}.{'.'.join(path)}: another value has no effect; name its condition or take it out")


def _one_differs(own: list[Any], source: Iterator[Any], others: Iterator[Iterator[Any]]) -> bool:
    """Whether one has other facts; so it is held where there is none, every value having been refused."""
    refused = True
    for other in others:
        refused = False
        if _differ(own, source, other):
            return True
    return refused


def _differ(own: list[Any], source: Iterator[Any], other: Iterator[Any]) -> bool:
    """Whether two lists of facts differ; `own` keeps what was already taken of the first, the cheapest coming first."""
    for index, fact in enumerate(other):
        if index == len(own):
            own.extend(islice(source, 1))
        if index >= len(own) or not _same(own[index], fact):
            return True
    return False


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, list) and first and isinstance(first[0], torch.Tensor):
        return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def _space_facts(subject: Subject, space: SearchSpace) -> Iterator[Any]:
    """What may vary, what is published, then models: of each its weights, its outputs and gradients, what it trains to.

    Where the task does not fit the space, that is the last fact.
    """
    published = (space.reference, *space.published.values())
    yield [repr(space.parameters), *(c.canonical for c in published)]
    near = (configuration for _, configuration in subject.neighbours(subject.space.reference))
    tried = dict.fromkeys((*published, *near))
    changed = [c for configuration in tried if (c := _taken(space, configuration)) is not None]
    for configuration in changed:
        yield _weights(_built(space, configuration))
    try:
        task = make_task(space, dict(subject.task_options or {}), torch.device("cpu"))
    except InputError as error:
        yield str(error)
        return
    batch = task.example_input(BATCH)
    yield tensors_in(batch)
    for configuration in changed:
        yield _answers(_built(space, configuration), batch)
    for configuration in changed:
        yield _trained(task, _built(space, configuration))


def _taken(space: SearchSpace, configuration: Configuration) -> Configuration | None:
    try:
        return space.configuration(configuration.as_dict())
    except InputError:
        return None


def _task_facts(subject: Subject, task: Task) -> Iterator[Any]:
    """The budget, a batch, quick scores, a training up to its first rung, all scores, a whole training, controls."""
    yield [task.metric, task.max_epochs, task.training_plan]
    yield tensors_in(task.example_input(BATCH))
    model = _built(subject.space, subject.space.reference)
    yield [task.evaluate(model, split, full=False) for split in SPLITS]
    yield _trained(task, _built(subject.space, subject.space.reference))
    yield [task.evaluate(model, split, full=True) for split in SPLITS]
    yield [(rung.epoch, dict(rung.facts)) for rung in task.train(model, SEED)]
    yield _weights(model)
    for control in task.controls():
        yield [control.name, control.measure(0, "validation")]


def _answers(model: nn.Module, batch: Inputs) -> list[torch.Tensor]:
    """Outputs in training mode, and their gradients."""
    seed_everything(SEED)
    outputs = tensors_in(call_model(model.train(), batch))
    objective(outputs).backward()
    return [*(t.detach() for t in outputs), *(p.grad for p in model.parameters() if p.grad is not None)]


def _built(space: SearchSpace, configuration: Configuration) -> nn.Module:
    seed_everything(SEED)
    return space.build(configuration)


def _weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def _trained(task: Task, model: nn.Module) -> list[torch.Tensor]:
    """Weights after the first rung."""
    for _ in islice(task.train(model, SEED), 1):
        pass
    return _weights(model)


def _changes(options: Options, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[object]]]:
    """Options that apply, those within options too, each with values that it might have."""
    values = {name: getattr(options, name) for name in type(options).model_fields}
    for name, field in type(options).model_fields.items():
        if not type(options).applies(name, values) or any(isinstance(mark, Mechanical) for mark in field.metadata):
            continue
        if isinstance(values[name], Options):
            yield from _changes(values[name], (*path, name))
        elif found := [other for other in _others(values[name], field.annotation) if other != values[name]]:
            yield (*path, name), found


def _others(value: object, annotation: Any) -> list[object]:
    """Values in place of `value`: all that a Literal has, the other truth, numbers around it."""
    if choices := _choices(annotation):
        return choices
    match value:
        case bool():
            return [not value]
        case int():
            return [1, 2, value // 2, 2 * value, value - 1, value + 1]
        case float():
            return [*(value * factor for factor in FACTORS), value + 0.5 * (1 - value), 0.5]
        case None:
            kinds = set(get_args(annotation))
            return [number for number in NUMBERS if type(number) in kinds]
    return []


def _choices(annotation: Any) -> list[object]:
    """Of a Literal, also one beside None."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    parts = [part for part in get_args(annotation) if part is not NoneType]
    return list(get_args(parts[0])) if len(parts) == 1 and get_origin(parts[0]) is Literal else []


def _with(given: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    first, *rest = path
    inner = given.get(first) or {}
    return {**given, first: _with(inner, tuple(rest), value) if rest else value}


def _allowed(make: Callable[[dict[str, Any]], Made], values: dict[str, Any]) -> Made | None:
    """None where the value is refused."""
    try:
        return make(values)
    except InputError:
        return None
