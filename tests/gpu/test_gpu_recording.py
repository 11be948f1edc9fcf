"""CUDA graphs of every task's training: as good as its eager steps, and recorded at all."""

import warnings

import pytest
import torch
from test_gpu_tasks import TASKS, built, made

from naslab.search_spaces.common.training import loop, recording
from naslab.search_spaces.common.training.policy import Policy
from naslab.search_spaces.common.training.recording import Recorded
from naslab.search_spaces.data import Augmentation, AugmentationOptions


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
