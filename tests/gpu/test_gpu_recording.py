"""CUDA graphs of every task's training: as good as its eager steps, and recorded at all."""

import sys
import warnings
from functools import partial

import pytest
import torch
from small_tasks import IMAGES, TASKS
from test_gpu_tasks import built, made

from naslab.nas.arms import Differentiable
from naslab.nas.differentiable.search import search
from naslab.search_spaces import find_space
from naslab.search_spaces.common.training import choice, loop, recording
from naslab.search_spaces.common.training.policy import Policy
from naslab.search_spaces.common.training.recording import Recorded
from naslab.search_spaces.data import Augmentation, AugmentationOptions
from naslab.search_spaces.find import make_task


def losses(name, device, graphs):
    task = made(name, device, epochs=4, policy={"cuda_graphs": "auto" if graphs else "off"})
    model = built(task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "policy_for", lambda wanted, training: Policy(cuda_graphs=graphs))
        return [rung.facts["loss"] for rung in task.train(model, 5)]


@pytest.mark.parametrize("name", TASKS)
def test_a_recorded_training_is_the_eager_one(name, cuda, monkeypatch):
    """Up to the order of sums, of which kernels with atomic additions have another each time."""
    recorded, real = [], recording.capture
    monkeypatch.setattr(recording, "capture", lambda *args: (recorded.append(args[1]), real(*args))[1])
    eager = losses(name, cuda, graphs=False)
    assert not recorded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert losses(name, cuda, graphs=True) == pytest.approx(eager, rel=0.01)
    assert recorded, "its views at least"


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("framework", ["simclr", "mocov2"])
def test_a_recorded_search_is_the_eager_one(framework, order, cuda, monkeypatch):
    space = find_space("nasiam", "tiny", {"framework": framework})
    task = make_task(space, IMAGES | {"dataset": {"train": 600, "validation": 60, "test": 60}}, cuda)
    arm = Differentiable(engine="differentiable", name="darts", epochs=2, order=order, entropy_weight=1.0)
    searching, found, recorded = sys.modules[search.__module__], [], []
    real = recording.capture
    monkeypatch.setattr(recording, "capture", lambda *args: (recorded.append(args[3]), real(*args))[1])
    for graphs in (False, True):
        monkeypatch.setattr(searching, "decide", lambda *args, graphs=graphs: Policy(cuda_graphs=graphs))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(list(search(space, task, arm, 0)))
    assert recorded.count(None) == {"first": 2, "second": 4}[order], "beside the views"
    for eager, replayed in zip(*found, strict=True):
        assert replayed.train_loss == pytest.approx(eager.train_loss, rel=0.02)
        assert replayed.held_out_loss == pytest.approx(eager.held_out_loss, rel=0.02)


def test_auto_measures_recordings_too(cuda, monkeypatch, tmp_path):
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(choice, "LEAST_SECONDS", 0.0)
    task = made("simclr", cuda, policy={"compile": "off"})
    wanted = choice.Wanted(task.options.policy, 10_000, {"of": "test"})
    model = built(task).to(cuda)
    optimiser = task.optimiser(model, [p for p in model.parameters() if p.requires_grad])
    batches = partial(task._steps, seed=0)
    loss = lambda model, views: model.loss(views)  # noqa: E731
    samples = choice.measure(wanted, choice.Training(model, optimiser, batches, loss))
    assert [sample.policy.cuda_graphs for sample in samples] == 4 * [False] + 4 * [True]
    assert choice.best(samples, 10_000).cuda_graphs, "some hundred launches against one"


def test_random_views_are_the_same_bit_for_bit(cuda):
    images = torch.randint(256, (64, 3, 28, 28), dtype=torch.uint8, device=cuda)
    augmentation = Augmentation(AugmentationOptions.for_framework("byol", 3), (0.5,) * 3, (0.5,) * 3)
    function = Recorded(augmentation, "views")
    for seed in (0, 1):
        plain, other = (torch.Generator(cuda).manual_seed(seed) for _ in range(2))
        for _ in range(5):
            assert torch.equal(function(images, generator=other), augmentation(images, plain))
        assert torch.equal(plain.get_state(), other.get_state())
    assert function._left < recording.MOST


def test_what_reads_the_device_goes_on_without_a_recording(cuda):
    """And leaves stream and random numbers usable."""

    def reads(x):
        return x * float(x.sum() > 0)

    function, x = Recorded(reads, "a function that reads"), torch.ones(8, device=cuda)
    stream = torch.cuda.current_stream(cuda)
    for _ in range(recording.WARM_UP):
        assert torch.equal(function(x), x)
    with pytest.warns(UserWarning, match="a function that reads cannot be recorded"):
        assert torch.equal(function(x), x)
    assert torch.cuda.current_stream(cuda) == stream
    assert torch.isfinite(torch.randn(8, device=cuda)).all()
    again = Recorded(torch.sin, "sines")
    for number in range(6):
        assert torch.equal(again(x * number), torch.sin(x * number))
    assert again._left == recording.MOST - 1
