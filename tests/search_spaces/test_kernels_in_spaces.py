import pytest
import torch
from torch.utils._pytree import tree_leaves

from naslab.efficiency.inputs import call_model
from naslab.kernels._dispatch import switched
from naslab.search_spaces import find_space, seed_everything

STEPS = 5


def losses(name: str, values: dict[str, object], way: str) -> list[float]:
    """Training losses of a few steps on one batch, from the same start."""
    space = find_space(name, "tiny")
    seed_everything(0)
    model = space.build(space.configuration({**space.reference, **values})).train()
    inputs = space.example_input(4)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    with switched(way):
        for step in range(STEPS):
            seed_everything(step)
            loss = next(t for t in tree_leaves(call_model(model, inputs)) if t.requires_grad and t.ndim == 0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mae", {}),
        ("mae", {"encoder_mask_tokens": True, "target": "pixel"}),
        ("smaug", {}),
        ("smaug", {"rule": "tome", "visual_masking_ratio": 0.0}),
        ("altup", {}),
        ("altup", {"coefficients": "per_token", "streams": 4}),
        ("dysi", {"schedule": "constant"}),
        ("token_reduction", {}),
    ],
    ids=str,
)
def test_the_kernels_train_what_the_references_train(name, values):
    fused, reference = losses(name, values, "fused"), losses(name, values, "reference")
    assert fused == pytest.approx(reference, rel=2e-4, abs=2e-4)
    assert len(set(fused)) == STEPS
