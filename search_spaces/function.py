"""A function as a search space: it takes the chosen values as keywords, trains, and yields its scores after each epoch.

The space is written down as plain values, so that a study of it is a study file like any other, and workers find the
function by its reference: `package.module:name`, or `folder/script.py:name`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from naslab.errors import InputError
from naslab.search_spaces import parameters as kinds
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Parameter, Scalar, When
from naslab.search_spaces.space import SearchSpace
from naslab.search_spaces.splits import Split
from naslab.search_spaces.task import Control, Rung, Task
from naslab.search_spaces.user_modules import import_from

UNKNOWN_EPOCHS = 1000
"""The budget of a function that does not say how often it yields; it is never cut off there."""
TEST = "test_"
"""What precedes the name of a score on the test split."""
OFFERED = ("seed", "device", "epochs", "checkpoint")
"""What a function is given beside the chosen values, where it has parameters of these names."""


class Range(Options):
    """What a parameter may be; `when` is another parameter's name and the values beside which this one applies."""

    when: tuple[str, tuple[Scalar, ...]] | None = None

    def _condition(self) -> When | None:
        return None if self.when is None else When(*self.when)


class FloatRange(Range):
    """A real number in [low, high]."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    def parameter(self, name: str) -> Parameter:
        """The parameter called `name`."""
        return kinds.Float(name, self.low, self.high, self.log, when=self._condition())


class IntegerRange(Range):
    """An integer in [low, high]."""

    kind: Literal["integer"] = "integer"
    low: int
    high: int
    step: int = Field(1, ge=1)
    log: bool = False

    def parameter(self, name: str) -> Parameter:
        """The parameter called `name`."""
        return kinds.Integer(name, self.low, self.high, self.step, self.log, when=self._condition())


class Choice(Range):
    """One of `values`."""

    kind: Literal["choice"] = "choice"
    values: tuple[Scalar, ...] = Field(min_length=1)

    def parameter(self, name: str) -> Parameter:
        """The parameter called `name`."""
        return kinds.Categorical(name, self.values, when=self._condition())


class FunctionOptions(Options):
    """The function, what it may be called with, and what it is to beat."""

    function: str
    """`package.module:name` or `folder/script.py:name`."""
    source: str = ""
    """Digest of the function's text: a changed function is another space."""
    parameters: dict[str, Annotated[FloatRange | IntegerRange | Choice, Field(discriminator="kind")]] = Field(
        min_length=1
    )
    reference: dict[str, Scalar]
    metric: str = Field(min_length=1)


class FunctionTaskOptions(Options):
    """`epochs`: how often a full training yields; it is cut off there. None: as often as it likes."""

    epochs: int | None = Field(None, gt=0)


class Call(nn.Module):
    """One call of the function: its values, and the scores that it yielded last. No network."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = dict(values)
        self.scores: dict[str, Any] = {}


class FunctionTask(Task):
    """Calls the function; the scores are what it yields, those of the test split under `test_NAME` where they differ.

    A function that returns its scores, or a bare number, trains for one epoch. It is given, where it has parameters of
    these names: `seed`, `device` (such as cuda:0), `epochs`, and `checkpoint`, a folder that an interrupted attempt may
    have left a state in; a resumed function yields its `epoch` among the scores.
    """

    Options = FunctionTaskOptions
    space: FunctionSpace

    def __init__(self, space: FunctionSpace, options: FunctionTaskOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        self.metric = space.options.metric
        self.function = load_function(space.options.function)
        self._signature = inspect.signature(self.function)

    @property
    def max_epochs(self) -> int:
        """How often a full training yields."""
        return int(self.options.epochs or self._default_epochs() or UNKNOWN_EPOCHS)

    def _default_epochs(self) -> int | None:
        if not inspect.isgeneratorfunction(self.function):
            return 1
        given = self._signature.parameters.get("epochs")
        return given.default if given is not None and isinstance(given.default, int) else None

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Call the function and follow what it yields."""
        assert isinstance(model, Call)
        random.seed(seed)
        offered = dict(zip(OFFERED, (seed, str(self.device), self.max_epochs, checkpoint), strict=True))
        given = {k: v for k, v in offered.items() if k in self._signature.parameters and k not in model.values}
        for count, scores in enumerate(_answers(self.function(**{**model.values, **given})), start=1):
            model.scores = dict(scores) if isinstance(scores, Mapping) else {self.metric: scores}
            epoch = model.scores.pop("epoch", count)
            yield Rung(epoch)
            if epoch == self.options.epochs:
                return

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """What the function yielded last."""
        assert isinstance(model, Call)
        plain = {name: score for name, score in model.scores.items() if not str(name).startswith(TEST)}
        if split == "validation":
            return plain
        own = {k.removeprefix(TEST): score for k, score in model.scores.items() if str(k).startswith(TEST)}
        return {**plain, **own}

    def controls(self) -> tuple[Control, ...]:
        """None: a function says nothing of what needs no search."""
        return ()

    def example_input(self, batch_size: int) -> torch.Tensor:
        """A function has no model to run.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.space.options.function} is a function: it hands out no model to profile, to constrain or to export"
        )

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The function itself: what it scores is known to it alone."""
        return {"metric": self.metric, "function": self.space.options.function, "source": self.space.options.source}


class FunctionSpace(SearchSpace):
    """The keywords that a function may be called with."""

    name = "function"
    Options = FunctionOptions
    Task = FunctionTask
    builds_models = False

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """In the order given."""
        return tuple(given.parameter(name) for name, given in self.options.parameters.items())

    @property
    def reference(self) -> Configuration:
        """The setting to beat."""
        return self.configuration(self.options.reference)

    def build(self, configuration: Configuration) -> nn.Module:
        """The call that is to be made."""
        return Call(configuration)


@functools.cache
def load_function(reference: str) -> Callable[..., Any]:
    """The function that `reference` names.

    Raises:
        InputError: no such file, module or function.
    """
    place, _, name = reference.rpartition(":")
    module = _file(Path(place)) if place.endswith(".py") else _module(place, reference)
    found = functools.reduce(lambda at, part: getattr(at, part, None), name.split("."), module)
    if not callable(found):
        raise InputError(f"function: {place} has no function {name!r}")
    function: Callable[..., Any] = found
    return function


def _module(name: str, reference: str) -> Any:
    import_from(Path.cwd())
    try:
        return importlib.import_module(name)
    except (ModuleNotFoundError, ValueError) as error:
        raise InputError(f"function: cannot import {name!r} of {reference!r}: {error}") from None


def _file(path: Path) -> Any:
    """A script as a module: the running one where it is that, else imported from its path."""
    for name in ("__main__", "__mp_main__"):
        running = sys.modules.get(name)
        if running is not None and Path(getattr(running, "__file__", None) or "").resolve() == path.resolve():
            return running
    spec = importlib.util.spec_from_file_location(f"naslab_function_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"function: {path}: no such file; it holds the function of this study")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    import_from(path.resolve().parent)
    spec.loader.exec_module(module)
    return module


def _answers(answer: Any) -> Iterator[Any]:
    return answer if isinstance(answer, Iterator) else iter([answer])
