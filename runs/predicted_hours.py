"""Predicted device hours of a study's runs, on the devices that it names; never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from naslab.efficiency.flops import count_training_step
from naslab.efficiency.hours import Hours, run_hours, study_hours
from naslab.efficiency.inputs import Inputs, map_tensors
from naslab.efficiency.memory_forecast import memory_needs
from naslab.runs.study import Study
from naslab.search_spaces import Configuration, Task

TRAININGS = ("reference", "random", "search", "proposal", "final")
"""Roles of jobs that train a model."""


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
    model, inputs = _on_meta(study, task, configuration, plan.batch_size)
    step, needs = count_training_step(model, inputs), memory_needs(model, inputs)["training_step"]
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


def _on_meta(study: Study, task: Task, configuration: Configuration, size: int) -> tuple[nn.Module, Inputs]:
    """Without weights where the model allows it."""
    inputs = task.example_input(size)
    try:
        with torch.device("meta"):
            model = study.search_space.build(configuration).to("meta")
        meta = map_tensors(lambda tensor: tensor.to("meta"), inputs)
        count_training_step(model, meta)
        return model, meta
    except Exception:  # noqa: BLE001 - some models need real values to run; an error of the model's own comes back
        return study.search_space.build(configuration).to(task.device), inputs
