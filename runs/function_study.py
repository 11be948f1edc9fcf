"""A study of a function: what `naslab.search` makes of it, and where workers find it."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from pydantic import ValidationError

from naslab.errors import InputError
from naslab.nas.names import check_name
from naslab.runs.notebook import module_text, source_of
from naslab.runs.place import runs_folder
from naslab.runs.storage_url import storage_url
from naslab.runs.study import SCHEMA, Study, parse_study
from naslab.search_spaces.function import OFFERED, TEST, Choice, FloatRange, FunctionSpace, IntegerRange, Range
from naslab.search_spaces.options import explain
from naslab.search_spaces.parameters import Scalar, check_conditions
from naslab.whole_file import write_whole

R = TypeVar("R", bound=Range)
Values: TypeAlias = Range | Sequence[Scalar]
SPACE = f"{FunctionSpace.__module__}:{FunctionSpace.__name__}"


def Float(low: float, high: float, *, log: bool = False, when: tuple[str, Any] | None = None) -> FloatRange:
    """A real number from `low` to `high`; `when=("optimiser", "sgd")`: only while that parameter has that value."""
    return _made(FloatRange, low=low, high=high, log=log, when=_when(when))


def Integer(
    low: int, high: int, *, step: int = 1, log: bool = False, when: tuple[str, Any] | None = None
) -> IntegerRange:
    """An integer from `low` to `high`, both included."""
    return _made(IntegerRange, low=low, high=high, step=step, log=log, when=_when(when))


def search(
    function: Callable[..., Any],
    space: Mapping[str, Values],
    *,
    metric: str,
    trials: int | None = None,
    hours: float | None = None,
    sampler: str = "tpe",
    pruner: str = "none",
    reference: Mapping[str, Scalar] | None = None,
    epochs: int | None = None,
    name: str | None = None,
    **more: Any,
) -> Study:
    """A study of the keywords that `function` may be called with.

    Args:
        function: trains and yields its scores by name after each epoch (or returns them); see docs/notebook.md.
        space: what each keyword may be: `naslab.Float`, `naslab.Integer`, or a list of choices.
        metric: the score that ranks; larger is better.
        trials: how many configurations are tried; `hours`: device hours to spend on them.
        reference: the setting to beat; by default the function's own defaults.
        epochs: how often a full training yields; by default the default of the function's argument `epochs`.
        name: by default the function's.
        more: further keys of a study file: seeds, seed, random_architectures, finalists, objective, ranking, ...

    Raises:
        InputError: a range, an option or a function that cannot be used, in one line.
    """
    _check_function(function)
    _check_keywords(function, space)
    _check_said_once(metric, trials, hours, sampler, pruner, epochs, more)
    check_name(name or function.__name__)
    place, source = _reference(function, name or function.__name__)
    arm = {"name": sampler.rpartition(":")[2], "engine": "optuna", "sampler": sampler, "pruner": pruner}
    budget = {"trials": trials, "device_hours": hours}
    options = {
        "function": place,
        "source": source,
        "parameters": {key: _range(key, values).model_dump(mode="json") for key, values in space.items()},
        "reference": dict(_defaults(function, space) if reference is None else reference),
        "metric": metric,
    }
    document = {
        "schema": SCHEMA,
        "name": name or function.__name__,
        "space": {"name": SPACE, "options": options},
        "task": {} if epochs is None else {"epochs": epochs},
        "arms": [{**arm, **{k: v for k, v in budget.items() if v is not None}}],
        **more,
    }
    study = parse_study(document, "search")
    try:
        check_conditions(study.search_space.parameters)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"space {SPACE}: ")) from None
    return study


def _range(name: str, values: Any) -> FloatRange | IntegerRange | Choice:
    if isinstance(values, FloatRange | IntegerRange | Choice):
        return values
    if isinstance(values, list | tuple) and values:
        chosen = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
        for value in chosen:
            if not isinstance(value, str | int | float):
                raise InputError(f"{name}: {value!r} is no choice; choices are text, numbers, True and False")
        return _made(Choice, values=chosen)
    raise InputError(f"{name}: {values!r} is no range; use naslab.Float, naslab.Integer, or a list of choices")


def _made(kind: type[R], **given: Any) -> R:
    try:
        return kind(**given)
    except ValidationError as error:
        raise InputError(explain(error, kind.__name__.removesuffix("Range"))) from None


def _when(when: tuple[str, Any] | None) -> tuple[str, tuple[Any, ...]] | None:
    if when is None:
        return None
    name, values = when
    return name, tuple(values) if isinstance(values, list | tuple) else (values,)


def _defaults(function: Callable[..., Any], space: Mapping[str, Any]) -> dict[str, Any]:
    given = {k: p.default for k, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
    missing = [name for name in space if name not in given and getattr(space[name], "when", None) is None]
    if missing:
        raise InputError(
            f"reference: {', '.join(missing)}: no value to beat; give reference={{...}}, or the function a default"
        )
    chosen: dict[str, Any] = {}
    for name, values in space.items():  # a parameter that does not apply beside the other defaults has none
        when = getattr(values, "when", None)
        if when is None or chosen.get(when[0]) in when[1]:
            chosen[name] = given[name]
    return chosen


def _check_function(function: Any) -> None:
    if not inspect.isfunction(function) or "<locals>" in function.__qualname__ or function.__name__ == "<lambda>":
        raise InputError(
            f"{function!r}: workers cannot import it; give a function at the top of a file or of a notebook"
        )


def _check_keywords(function: Callable[..., Any], space: Mapping[str, Any]) -> None:
    """Refuse what the function cannot be called with, or without: every trial would fail."""
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        varied = space.get(parameter.name)
        always = parameter.name in space and getattr(varied, "when", None) is None
        if _needs_a_value(parameter) and not always and parameter.name not in OFFERED:
            lacks = "it is not in the space" if varied is None else "it does not always apply"
            raise InputError(f"{parameter.name}: {function.__name__} needs a value for it, and {lacks}; give a default")
    taken = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return
    for name in space:
        if name not in taken:
            near = difflib.get_close_matches(name, taken, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(taken) or 'none'}"
            raise InputError(f"{name}: {function.__name__} takes no such keyword{hint}")


def _needs_a_value(parameter: inspect.Parameter) -> bool:
    spread = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not spread


def _check_said_once(
    metric: str,
    trials: int | None,
    hours: float | None,
    sampler: str,
    pruner: str,
    epochs: int | None,
    more: Mapping[str, Any],
) -> None:
    """Refuse what would be overruled without a word."""
    if "arms" in more and (trials, hours, sampler, pruner) != (None, None, "tpe", "none"):
        raise InputError("arms: each has its own trials, device_hours, sampler and pruner; give these there")
    if "task" in more and epochs is not None:
        raise InputError("task: give epochs there, too, or leave task out")
    if metric.startswith(TEST):
        raise InputError(f"metric: {metric!r} is a score of the test split; name it without {TEST}")


def _reference(function: Callable[..., Any], study: str) -> tuple[str, str]:
    """Where workers find the function, and the digest of its text."""
    source = source_of(function)
    if function.__module__ != "__main__":
        return f"{function.__module__}:{function.__qualname__}", _digest(source)
    main = sys.modules["__main__"]
    spec, is_main = main.__spec__, getattr(main, function.__name__, None) is function
    if spec is not None and is_main and not _in_notebook():  # python -m package.module
        return f"{spec.name}:{function.__qualname__}", _digest(source)
    script = inspect.getsourcefile(function)  # a profiler or debugger that runs a script is __main__ in its place
    if script is not None and Path(script).suffix == ".py" and Path(script).is_file() and not _in_notebook():
        return f"{_short(Path(script))}:{function.__qualname__}", _digest(source)
    text = module_text(function)
    path = runs_folder(storage_url(None)) / "functions" / f"{study}_{_digest(text)}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)  # workers of another study may be reading it
    return f"{_short(path)}:{function.__name__}", _digest(text)


def _in_notebook() -> bool:
    return "get_ipython" in vars(sys.modules["__main__"])


def _short(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
