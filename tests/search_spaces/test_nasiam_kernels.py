"""NASiam's training with the kernels and with their references: each step from the same state."""

import pytest
import torch

from naslab.kernels._dispatch import switched
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.nasiam.frameworks import Views


def step_of(supernet, batch, way):
    """Loss and gradient, flat, of one batch; the supernet's own state moves on."""
    supernet.zero_grad()
    with switched(way):
        loss = supernet.loss(batch)
        loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in supernet.parameters() if p.grad is not None])
    return loss.item(), gradient.clone()


@pytest.mark.parametrize("framework", ["simsiam", "simclr", "mocov2", "byol"])
def test_the_kernels_switched_off_train_alike(framework):
    """Step by step: rounding that a whole training carries on grows from step to step, on one processor more than on
    another. A cosine of nearly 0 is known to its range of 1, not to a share of itself.
    """
    seed_everything(0)
    space = find_space("nasiam", None, {"framework": framework, "backbone": "tiny", "in_channels": 1, "image_size": 28})
    supernet, twin = (space.supernet(lambda alpha: alpha.softmax(-1)) for _ in range(2))
    optimiser = torch.optim.SGD(supernet.parameters(), 0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        batch = Views(*(torch.randn(16, 1, 28, 28, generator=generator) for _ in range(2)))
        twin.load_state_dict(supernet.state_dict())
        seed_everything(2)  # MoCo shuffles
        loss, gradient = step_of(supernet, batch, "reference")
        seed_everything(2)
        fused_loss, fused_gradient = step_of(twin, batch, "fused")
        assert fused_loss == pytest.approx(loss, rel=1e-5, abs=1e-5)
        assert (fused_gradient - gradient).norm() <= 1e-4 * gradient.norm()
        optimiser.step()
        supernet.after_step(0.0)
    supernet.eval()
    with switched("fused"):
        projected = supernet.project(batch.first)
    with switched("reference"):
        torch.testing.assert_close(projected, supernet.project(batch.first), rtol=1e-3, atol=1e-3)
