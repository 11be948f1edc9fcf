"""The contract suite bites: a space that breaks one rule is caught by that rule, and told in one line."""

from typing import Annotated

import pytest
import torch
from pydantic import BaseModel, Field
from torch import nn

from naslab.search_spaces import (
    Categorical,
    Control,
    Float,
    Integer,
    Mechanical,
    Options,
    Rung,
    SearchSpace,
    Task,
    derive_seed,
)
from naslab.testing import RULES, Broken, check_space, rules

HERE = "test_testing"


class LineOptions(Options):
    epochs: int = Field(2, ge=0)
    noise: float = Field(1.0, ge=0)


class Line(Task):
    """Fits random numbers; stops and goes on by a file."""

    Options = LineOptions
    metric = "closeness"

    def __init__(self, space, options, device):
        super().__init__(space, options, device)
        self.x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    @property
    def max_epochs(self):
        return self.options.epochs

    def train(self, model, seed, checkpoint=None):
        file = checkpoint and checkpoint / "state.pt"
        start = 0
        if file and file.exists():
            start, state = torch.load(file)
            model.load_state_dict(state)
        for epoch in range(start, self.max_epochs):
            generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
            loss = (model(self.x) - self.options.noise * torch.randn(16, 2, generator=generator)).square().mean()
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
            if checkpoint:
                checkpoint.mkdir(exist_ok=True)
                torch.save((epoch + 1, model.state_dict()), file)
            yield Rung(epoch + 1, {"loss": loss.item()})

    def evaluate(self, model, split, full=True):
        with torch.no_grad():
            return {"closeness": -float(model.eval()(self.x).square().mean())}

    def controls(self):
        return (Control("zero", "always nothing", lambda seed, split: {"closeness": 0.0}, seeded=False),)

    def example_input(self, batch_size):
        return self.x[torch.arange(batch_size) % 16]


class Sound(SearchSpace):
    """Two layers; dropped out or not."""

    name = "sound"
    Options = Options
    Task = Line

    @property
    def parameters(self):
        return (Integer("width", 2, 8), Float("scale", 0.5, 2.0), Categorical("norm", (False, True)))

    @property
    def reference(self):
        return self.configuration({"width": 4, "scale": 1.0, "norm": False})

    def build(self, configuration):
        width = configuration["width"]
        norm = nn.LayerNorm(width) if configuration["norm"] else nn.Identity()
        return nn.Sequential(nn.Linear(4, width), norm, Scaled(configuration["scale"]), nn.Linear(width, 2))

    def forward_flops(self, configuration, batch_size):
        return 2 * batch_size * configuration["width"] * 6


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return torch.tanh(self.scale * x)


class Rounded(Sound):
    def build(self, configuration):
        values = dict(configuration) | {"scale": round(configuration["scale"], 1)}
        return super().build(type(configuration)(self.name, tuple(values.items())))


class JoinsTooMuch(Sound):
    def canonicalise(self, values):
        return values | {"width": 4}


class Unstable(Sound):
    def canonicalise(self, values):
        return values | {"width": max(values["width"] - 1, 2)}


class OwnGenerator(Sound):
    def build(self, configuration):
        model = super().build(configuration)
        nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
        return model


class NoGradient(Sound):
    def build(self, configuration):
        return super().build(configuration).requires_grad_(configuration["norm"] is False)


class WrongFormula(Sound):
    def forward_flops(self, configuration, batch_size):
        return batch_size * configuration["width"] * 6


class DropsInEvaluation(Sound):
    def build(self, configuration):
        return nn.Sequential(super().build(configuration), Always())


class Always(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class Forgets(Line):
    """Goes on from the checkpoint's epoch, but with new weights."""

    def train(self, model, seed, checkpoint=None):
        fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        resumed = checkpoint is not None and (checkpoint / "state.pt").exists()
        for rung in super().train(model, seed, checkpoint):
            if resumed:
                model.load_state_dict(fresh)
            yield rung


class NoMetric(Line):
    metric = "accuracy"


class Learns(Line):
    def evaluate(self, model, split, full=True):
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        return super().evaluate(model, split, full)


class TwoOfOneName(Line):
    def controls(self):
        return (*super().controls(), *super().controls())


class SecretlySeeded(Line):
    def controls(self):
        return (Control("drawn", "a draw", lambda seed, split: {"closeness": float(seed)}, seeded=False),)


class OneTooMany(Line):
    def example_input(self, batch_size):
        return super().example_input(batch_size + 1)


class AnyOption(BaseModel, extra="allow"):
    epochs: int = 2


class TakesAnything(Line):
    Options = AnyOption


class Index(Line):
    """Trains nothing."""

    Options = Options
    max_epochs = 0

    def train(self, model, seed, checkpoint=None):
        return iter(())


def with_task(task):
    return type(f"With{task.__name__}", (Sound,), {"Task": task})


class IdleOptions(Options):
    heads: int = Field(4, ge=1)


class IdleSpaceOption(Sound):
    Options = IdleOptions


class IdleTaskOptions(LineOptions):
    patience: int = Field(3, ge=1)
    workers: Annotated[int, Mechanical()] = 1


class IdleTaskOption(Line):
    Options = IdleTaskOptions


BROKEN = {
    "reference_builds": (Unstable,),
    "building_is_decided_by_the_seed": (OwnGenerator,),
    "proposals_build_and_step": (NoGradient,),
    "one_configuration_is_one_function": (JoinsTooMuch,),
    "different_configurations_differ": (Rounded,),
    "training_resumes_bit_for_bit": (with_task(Forgets),),
    "scores_are_named_and_repeatable": (with_task(NoMetric), with_task(Learns)),
    "controls_work": (with_task(TwoOfOneName), with_task(SecretlySeeded)),
    "example_inputs_are_batches": (with_task(OneTooMany), DropsInEvaluation),
    "formula_equals_counter": (WrongFormula,),
    "bad_options_are_refused": (with_task(TakesAnything),),
    "space_options_have_an_effect": (IdleSpaceOption,),
    "task_options_have_an_effect": (with_task(IdleTaskOption),),
}
SPACES = {space.__name__: space for spaces in BROKEN.values() for space in spaces} | {
    "Sound": Sound,
    "WithIndex": with_task(Index),
}
globals().update(SPACES)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


@pytest.mark.parametrize("space", ["Sound", "WithIndex"])
def test_a_sound_space_passes(space):
    check_space(f"{HERE}:{space}")


@pytest.mark.parametrize(
    ("rule", "space"), [(rule, space.__name__) for rule, spaces in BROKEN.items() for space in spaces]
)
def test_each_rule_catches_what_it_is_for(rule, space):
    with pytest.raises(Broken) as caught:
        check_space(f"{HERE}:{space}")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{HERE}:{space} breaks ")
    assert any(line.startswith(f"  {rule}: ") for line in lines), lines


def test_a_trial_that_takes_too_long_is_caught(monkeypatch):
    monkeypatch.setattr(rules, "TRIAL_SECONDS", 0.0)
    with pytest.raises(Broken, match=r"breaks 1 of .*\n  a_trial_takes_less_than_a_minute: "):
        check_space(f"{HERE}:Sound")


def test_every_rule_is_tried():
    # Parameter.check and mypy leave no way to break two of them; time is tried by itself.
    untried = {"bad_configurations_are_refused", "gradient_can_search_it", "a_trial_takes_less_than_a_minute"}
    assert {rule.__name__ for rule in RULES} == BROKEN.keys() | untried
    assert all(hasattr(rules, name) for name in BROKEN)
