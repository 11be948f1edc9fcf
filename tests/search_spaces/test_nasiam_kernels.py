import pytest
import torch

from naslab.kernels._dispatch import switched
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.nasiam.frameworks import Views


def training_curve(way, framework):
    """Losses of a few supernet steps on fixed views."""
    seed_everything(0)
    space = find_space("nasiam", None, {"framework": framework, "backbone": "tiny", "in_channels": 1, "image_size": 28})
    supernet = space.supernet(lambda alpha: alpha.softmax(-1))
    optimiser = torch.optim.SGD(supernet.parameters(), 0.05)
    generator = torch.Generator().manual_seed(1)
    losses = []
    with switched(way):
        for _ in range(5):
            batch = Views(*(torch.randn(16, 1, 28, 28, generator=generator) for _ in range(2)))
            optimiser.zero_grad()
            loss = supernet.loss(batch)
            loss.backward()
            optimiser.step()
            supernet.after_step(0.0)
            losses.append(loss.item())
        supernet.eval()
        losses.append(supernet.project(batch.first).square().mean().item())
    return losses


@pytest.mark.parametrize("framework", ["simsiam", "simclr", "mocov2", "byol"])
def test_the_kernels_switched_off_train_alike(framework):
    # A cosine of nearly 0 is known to its range of 1, not to a share of itself.
    expected = pytest.approx(training_curve("reference", framework), rel=2e-3, abs=2e-3)
    assert training_curve("fused", framework) == expected
