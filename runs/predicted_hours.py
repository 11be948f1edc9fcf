"""Predicted device hours of a study's runs, on the devices that it names; never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.flops import count_training_step
from naslab.efficiency.hours import Hours, run_hours, study_hours
from naslab.efficiency.inputs import Inputs, map_tensors
from naslab.efficiency.memory_forecast import memory_needs
from naslab.efficiency.targets import HERE
from naslab.runs.output import significant_digits
from naslab.runs.study import Study
from naslab.runs.trial import TRAININGS, Trial
from naslab.search_spaces import Configuration, Task


def configuration_hours(study: Study, task: Task, configuration: Configuration) -> dict[str, Hours]:
    """Hours of one full training of a configuration, by device; empty where the study names none.

    The step is that of the model's forward on the task's example input and the backward of all its outputs, so heads
    and losses of the task that are no part of the model are not in it.
    """
    plan = task.training_plan
    if not study.predict_for or not study.search_space.builds_models:
        return {}
    if plan is None:
        reason = "the task does not say how many steps a training has"
        return {name: Hours(name, None, None, None, "none", reason) for name in study.predict_for}
    model, inputs, step = _counted(study, task, configuration, plan.batch_size)
    needs = memory_needs(model, inputs)["training_step"]
    return {
        name: run_hours(step, plan.steps, name, passes=plan.passes, needs_bytes=needs) for name in study.predict_for
    }


def expected_hours(study: Study, task: Task, jobs: Mapping[str, int]) -> dict[str, Any]:
    """The `predicted_hours` of a dry run: of one training of the reference, and of all trainings that are expected, as
    if each were one. A search by gradient takes longer than a training, so with one the sum is too small.
    """
    trainings = sum(jobs.get(role, 0) for role in TRAININGS)
    found: dict[str, Any] = {}
    for name, run in configuration_hours(study, task, study.search_space.reference).items():
        whole = study_hours([(run, trainings)])
        assert whole is not None
        found[name] = {"run": run.to_dict(), "study": whole.to_dict(), "trainings": trainings}
    return found


def spent_hours(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """The `predicted_hours` of a ranking, by device: what all trainings so far would have taken there.

    A training that ended early counts by its share of the epochs. One whose configuration was not profiled, such as a
    proposal or a search by gradient, counts as one of the reference.
    """
    known = _profiled(trials)
    reference = known.get(study.search_space.reference, {})
    full_length = _full_length(trials)
    shares = [(t.job.configuration, share) for t in trials if (share := _share(t, full_length))]
    found: dict[str, Any] = {}
    for device in study.predict_for:
        own = [known.get(configuration, {}).get(device) for configuration, _ in shares]
        runs = [(run or reference.get(device), share) for run, (_, share) in zip(own, shares, strict=True)]
        whole = study_hours([(run, share) for run, share in runs if run is not None])
        if whole is None or any(run is None for run, _ in runs):
            whole = Hours(device, None, None, None, "none", "the reference has not been profiled for it yet")
        as_reference = sum(run is None for run in own)
        found[device] = {"study": whole.to_dict(), "trainings": len(shares), "as_reference": as_reference}
    return found


def _profiled(trials: Sequence[Trial]) -> dict[Configuration | None, dict[str, Hours]]:
    """Hours of one full training by configuration and device, as their profiles say."""
    return {
        t.job.configuration: {name: Hours(**hours) for name, hours in t.result["predicted_hours"].items()}
        for t in trials
        if t.result.get("predicted_hours")
    }


def _full_length(trials: Sequence[Trial]) -> int:
    return max((t.last_epoch for t in trials if t.job.role in TRAININGS and t.state == "complete"), default=0)


def _share(trial: Trial, epochs: int) -> float:
    """How much of a full training a trial has done; a search by gradient counts as one."""
    if trial.job.role not in TRAININGS:
        return 0.0
    if trial.state == "complete" and (trial.job.role == "search" or not trial.last_epoch):
        return 1.0
    return trial.last_epoch / epochs if epochs else 0.0


def hours_words(device: str, hours: Mapping[str, Any]) -> str:
    """Predicted hours in words, of one run or of many: never without the word, the interval, or the reason."""
    if hours["hours"] is None:
        return f"hours on {device} are not predicted: {hours['refused']}"
    hours_text, low, high = (significant_digits(hours[key], 2) for key in ("hours", "low", "high"))
    unit = "hours" if device == HERE else "GPU hours"
    return f"{hours_text} {unit} predicted on {device} ({low} to {high})"


def fit_words(memory: Mapping[str, Any] | None) -> str:
    """What does not fit, and how many devices would hold it; nothing where it does, or where it is not known."""
    if memory is None or memory["fits"]:
        return ""
    return (
        f"a training step needs {memory['needs_bytes'] / 1e9:,.0f} GB and does not fit on one: at least "
        f"{memory['devices']} devices would hold it"
    )


def _counted(
    study: Study, task: Task, configuration: Configuration, size: int
) -> tuple[nn.Module, Inputs, FlopCount | None]:
    """Model, input and training step; without weights where the model allows it."""
    inputs = task.example_input(size)
    try:
        with torch.device("meta"):
            model = study.search_space.build(configuration).to("meta")
        meta = map_tensors(lambda tensor: tensor.to("meta"), inputs)
        return model, meta, count_training_step(model, meta)
    except Exception:  # noqa: BLE001 - some models need real values to run; an error of the model's own comes back
        model = study.search_space.build(configuration).to(task.device)
        return model, inputs, count_training_step(model, inputs)
