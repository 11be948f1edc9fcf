"""The rules of the contract, each a function that raises Broken for a violation."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import annotated_types as bounds
import torch
import yaml
from torch import Tensor, nn

from naslab.efficiency import count_forward
from naslab.efficiency.inputs import batch_size, call_model, map_tensors, tensors_in
from naslab.errors import InputError
from naslab.search_spaces import Configuration, Options, RelaxableSpace, Split, find_space, make_task
from naslab.testing.effects import space_options_have_an_effect, task_options_have_an_effect
from naslab.testing.subject import BATCH, SEED, Broken, Subject, objective

Rule = Callable[[Subject], None]
SPLITS: tuple[Split, ...] = ("validation", "test")
FORMULA_TOLERANCE = 0.01
SAME_FLOPS = 0.02
"""Within which two spellings of one function cost the same: learned scalars that start as the identity may differ."""
TRIAL_SECONDS = 60.0
RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""Within which outputs of one function in two spellings are equal: their operations may come in another order."""


def reference_builds(subject: Subject) -> None:
    """The reference and every published setting is valid, in canonical form, and gives finite outputs."""
    for name, configuration in subject.published.items():
        _is_fixed_point(subject, configuration, name)
        outputs = subject.outputs(subject.build(configuration).eval())
        _require(bool(outputs), f"{name}: the model returns no tensor")
        _require(_finite(outputs), f"{name}: an output is not finite")


def building_is_decided_by_the_seed(subject: Subject) -> None:
    """The same seed gives the same weights, another seed others."""
    first, again, other = (subject.build(subject.space.reference, seed).state_dict() for seed in (1, 1, 2))
    _require(_same(first, again), "two builds with one seed have different weights; draw from torch's global generator")
    _require(not _same(first, other), "builds with different seeds have the same weights")


def proposals_build_and_step(subject: Subject) -> None:
    """What an engine may propose is in canonical form, builds, and can take a step of gradient descent."""
    for configuration in subject.proposed:
        _is_fixed_point(subject, configuration, str(configuration))
        model = subject.build(configuration).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        _require(bool(trained), f"{configuration}: no parameter is trained")
        objective(subject.outputs(model)).backward()
        gradients = [p.grad for p in trained if p.grad is not None]
        _require(bool(gradients), f"{configuration}: no gradient reaches a parameter")
        _require(_finite(gradients), f"{configuration}: a gradient is not finite")
        torch.optim.SGD(trained, lr=1e-3).step()
        _require(_finite(subject.outputs(model)), f"{configuration}: after a step an output is not finite")


def one_configuration_is_one_function(subject: Subject) -> None:
    """Values that `canonicalise` maps onto another spelling build what that spelling builds."""
    spellings = (
        (_as_given(subject, values), subject.space.configuration(values)) for values in subject.raw(4 * subject.samples)
    )
    changed = [(raw, canonical) for raw, canonical in spellings if raw != canonical]
    for raw, canonical in changed[: subject.samples]:
        with torch.device("meta"):
            flops = [count_forward(subject.space.build(c), _on_meta(subject)).total for c in (raw, canonical)]
        _require(
            math.isclose(*flops, rel_tol=SAME_FLOPS),
            f"{raw} costs {flops[0]:.4g} FLOPs, but its canonical form {canonical} {flops[1]:.4g}",
        )
        models = [subject.build(c).eval() for c in (raw, canonical)]
        if _shapes(models[0]) == _shapes(models[1]):
            outputs = [subject.outputs(model) for model in models]
            _require(
                all(torch.allclose(a, b, RELATIVE, ABSOLUTE) for a, b in zip(*outputs, strict=True)),
                f"{raw} and its canonical form {canonical} give different outputs",
            )


def different_configurations_differ(subject: Subject) -> None:
    """Neighbours that stay two configurations are two functions, in outputs, gradients, or what training makes."""
    for base in (subject.space.reference, *subject.proposed[:1]):
        own = list(_answers(subject, base))
        for name, neighbour in subject.neighbours(base):
            answers = zip(own, _answers(subject, neighbour), strict=True)
            if all(_equal(*pair) for pair in answers) and _train_alike(subject, base, neighbour):
                raise Broken(
                    f"{name}: {base} and {neighbour} are one function under two names; map one onto the other in "
                    "canonicalise"
                )


def training_resumes_bit_for_bit(subject: Subject) -> None:
    """Stopped after a rung and taken up from its checkpoint, a training ends with the weights of an unbroken one.

    Rungs count up to `max_epochs`, and scoring between them changes nothing. A task without epochs yields none.
    """
    with tempfile.TemporaryDirectory() as folder:
        unbroken, epochs = _train(subject, Path(folder, "unbroken"))
        _require(epochs == sorted(set(epochs)), f"rungs come at epochs {epochs}, which do not rise")
        last = epochs[-1] if epochs else 0
        _require(
            last == subject.task.max_epochs, f"the last rung is at {last}, max_epochs is {subject.task.max_epochs}"
        )
        broken = Path(folder, "broken")
        _train(subject, broken, rungs=1)
        torch.rand(3)  # a new process's generator stands elsewhere
        resumed, _ = _train(subject, broken)
    _require(_same(unbroken, resumed), "the resumed training ends with other weights than the unbroken one")


def a_trial_takes_less_than_a_minute(subject: Subject) -> None:
    """At the given preset and options a model is built, trained and scored within a minute of one processor."""
    began = time.process_time()
    _train(subject, None)
    spent = time.process_time() - began
    _require(spent < TRIAL_SECONDS, f"a training and its scores took {spent:.0f} s; give less data or a smaller preset")


def scores_are_named_and_repeatable(subject: Subject) -> None:
    """`evaluate` gives the metric, finite, on both splits, the same twice, and leaves the weights alone."""
    model = subject.build(subject.space.reference)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for split in SPLITS:
        for full in (False, True):
            scores = subject.task.evaluate(model, split, full=full)
            _has_metric(subject, scores, f"evaluate({split!r}, full={full})")
    _require(subject.task.evaluate(model, "test") == scores, "two evaluations of one model differ")
    _require(_same(before, model.state_dict()), "evaluate changes the weights")
    _require(bool(json.dumps(dict(subject.task.benchmark))), "benchmark is empty")


def controls_work(subject: Subject) -> None:
    """Each control has a name of its own, gives the metric, and tells whether the seed matters."""
    controls = subject.task.controls()
    names = [control.name for control in controls]
    _require(len(set(names)) == len(names), f"two controls share a name: {', '.join(names)}")
    for control in controls:
        scores = control.measure(0, "validation")
        _has_metric(subject, scores, f"control {control.name}")
        if not control.seeded:
            _require(
                control.measure(1, "validation") == scores, f"control {control.name}: not seeded, but seeds differ"
            )


def example_inputs_are_batches(subject: Subject) -> None:
    """The example inputs have the size asked for, and alone decide a model's outputs in evaluation mode."""
    for size in (1, BATCH):
        given = batch_size(subject.task.example_input(size))
        _require(given == size, f"task.example_input({size}) has {given} samples")
    own = subject.space.example_input(BATCH)
    if own is not None:
        kinds = [[(t.shape, t.dtype) for t in tensors_in(inputs)] for inputs in (own, subject.batch)]
        _require(kinds[0] == kinds[1], f"example inputs of space and task differ: {kinds[0]} and {kinds[1]}")
    model = subject.build(subject.space.reference).eval()
    with torch.no_grad():
        first, again = (subject.outputs(model) if seeded else _unseeded(subject, model) for seeded in (True, False))
    _require(_equal(first, again), "in evaluation mode the outputs depend on more than the inputs")


def formula_equals_counter(subject: Subject) -> None:
    """A closed formula for the forward's FLOPs agrees with what a counter sees to a percent."""
    for configuration in (*subject.published.values(), *subject.proposed):
        formula = subject.space.forward_flops(configuration, BATCH)
        if formula is None:
            continue
        with torch.device("meta"):
            counted = count_forward(subject.space.build(configuration), _on_meta(subject))
        _require(
            math.isclose(formula, counted.total, rel_tol=FORMULA_TOLERANCE),
            f"{configuration}: the formula says {formula:.6g} FLOPs, the counter {counted.total:.6g}",
        )


def bad_options_are_refused(subject: Subject) -> None:
    """An unknown key, a value of another type or outside its bounds is an InputError: one line that names the key."""
    space, task = dict(subject.options or {}), dict(subject.task_options or {})
    for key, value in _wrong(type(subject.space.options)):
        _refused(partial(find_space, subject.name, subject.preset, {**space, key: value}), key, value)
    for key, value in _wrong(subject.space.Task.Options):
        _refused(partial(make_task, subject.space, {**task, key: value}, torch.device("cpu")), key, value)


def bad_configurations_are_refused(subject: Subject) -> None:
    """An unknown, missing or impossible value is an InputError: one line that names the parameter."""
    values = subject.space.reference.as_dict()
    _refused(partial(subject.space.configuration, {**values, "no_such": 1}), "no_such", 1)
    for name in values:
        for wrong in ("no such value", ["no such value"], float("nan")):
            _refused(partial(subject.space.configuration, {**values, name: wrong}), name, wrong)
        rest = {key: value for key, value in values.items() if key != name}
        _refused(partial(subject.space.configuration, rest), name, "nothing")


def gradient_can_search_it(subject: Subject) -> None:
    """A relaxable space's supernet has decisions for every chain, at zero, and choices make a configuration."""
    space = subject.space
    if not isinstance(space, RelaxableSpace):
        return
    alphas = space.supernet(lambda alpha: alpha.softmax(-1)).alphas
    for chain in space.chains():
        shape = (chain.length, len(chain.choices))
        _require(alphas[chain.name].shape == shape, f"alphas of {chain.name} are not layers x candidates, {shape}")
        _require(not alphas[chain.name].any(), f"alphas of {chain.name} do not start at zero")
    for choice in space.chains()[0].choices:
        genotype = {chain.name: (choice,) * chain.length for chain in space.chains() if choice in chain.choices}
        if len(genotype) == len(space.chains()):
            _is_fixed_point(subject, space.genotype(genotype), f"genotype of {choice}")


RULES: tuple[Rule, ...] = (
    reference_builds,
    building_is_decided_by_the_seed,
    proposals_build_and_step,
    one_configuration_is_one_function,
    different_configurations_differ,
    training_resumes_bit_for_bit,
    a_trial_takes_less_than_a_minute,
    scores_are_named_and_repeatable,
    controls_work,
    example_inputs_are_batches,
    formula_equals_counter,
    bad_options_are_refused,
    bad_configurations_are_refused,
    gradient_can_search_it,
    space_options_have_an_effect,
    task_options_have_an_effect,
)


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise Broken(found)


def _is_fixed_point(subject: Subject, configuration: Configuration, name: str) -> None:
    for written in (
        configuration.as_dict(),
        json.loads(configuration.canonical),
        yaml.safe_load(configuration.to_yaml()),
    ):
        read = subject.space.configuration(written)
        _require(read == configuration, f"{name}: read back, {configuration} becomes {read}")


def _answers(subject: Subject, configuration: Configuration) -> Iterator[list[Tensor]]:
    """Outputs in evaluation, then outputs and gradients in training, worked out only when asked for."""
    model = subject.build(configuration)
    with torch.no_grad():
        evaluated = subject.outputs(model.eval())
    yield evaluated
    trained = subject.outputs(model.train())
    objective(trained).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    yield [*(t.detach() for t in trained), *gradients]


def _train_alike(subject: Subject, *pair: Configuration) -> bool:
    states = [_train(subject, None, configuration=c, rungs=1)[0] for c in pair]
    return _equal(*(list(state.values()) for state in states))


def _train(
    subject: Subject, checkpoint: Path | None, configuration: Configuration | None = None, rungs: int | None = None
) -> tuple[dict[str, Tensor], list[int]]:
    """Weights after a training, scored after each of its rungs as a study does, and the rungs' epochs."""
    model = subject.build(configuration or subject.space.reference)
    epochs = []
    for rung in islice(subject.task.train(model, SEED, checkpoint), rungs):
        epochs.append(rung.epoch)
        subject.task.evaluate(model, "validation", full=False)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, epochs


def _unseeded(subject: Subject, model: nn.Module) -> list[Tensor]:
    torch.rand(7)
    return tensors_in(call_model(model, subject.batch))


def _as_given(subject: Subject, values: Mapping[str, Any]) -> Configuration:
    """The values without `canonicalise`."""
    return Configuration(subject.space.name, tuple(subject.space.validated(values).items()))


def _on_meta(subject: Subject) -> Any:
    with torch.device("cpu"):  # the subject makes its task and batch when first asked for them
        batch = subject.batch
    return map_tensors(lambda tensor: tensor.to("meta"), batch)


def _has_metric(subject: Subject, scores: Mapping[str, float], source: str) -> None:
    metric = subject.task.metric
    _require(metric in scores, f"{source} gives {', '.join(scores) or 'nothing'}, but not the metric {metric}")
    _require(math.isfinite(scores[metric]), f"{source}: {metric} is {scores[metric]}")


def _wrong(options: type[Options]) -> Iterator[tuple[str, object]]:
    """Keys with values that cannot be right: unknown, of another type, just outside each bound."""
    yield "no_such_option", 1
    for name, field in options.model_fields.items():
        if field.annotation is not Any:
            yield name, [["no", {"such": "value"}]]
        for bound in field.metadata:
            match bound:
                case bounds.Ge(limit) if isinstance(limit, int | float):
                    yield name, limit - 1
                case bounds.Gt(limit) if isinstance(limit, int | float):
                    yield name, limit
                case bounds.Le(limit) if isinstance(limit, int | float):
                    yield name, limit + 1
                case bounds.Lt(limit) if isinstance(limit, int | float):
                    yield name, limit
                case _:
                    pass


def _refused(make: Callable[[], object], key: str, value: object) -> None:
    try:
        make()
    except InputError as error:
        message = str(error)
        _require("\n" not in message, f"{key} = {value!r}: the message has several lines: {message}")
        _require(key in message, f"{key} = {value!r}: the message does not name it: {message}")
        return
    raise Broken(f"{key} = {value!r} is accepted")


def _shapes(model: nn.Module) -> list[torch.Size]:
    return sorted(tensor.shape for tensor in model.state_dict().values())


def _finite(tensors: list[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
