"""Every Triton kernel in the interpreter, forward and backward, against the reference in float64."""

import math

import pytest
import torch
from cases import CASES, assert_close, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.kernels import distill_kl
from naslab.kernels._dispatch import switched, way

everything = pytest.mark.parametrize("name", CASES)


def both(case, size, dtype=torch.float32):
    with switched("fused"):
        actual = outcome(case, case.made(size, dtype))
    with switched("reference"):
        return actual, outcome(case, case.made(size, torch.float64))


def test_this_is_the_interpreter():
    assert way(torch.ones(1)) == "triton"


@everything
@pytest.mark.parametrize("size", [1, 300])
def test_it_is_its_reference_in_float64(name, size, nan_filled):
    assert_close(*both(CASES[name], size), CASES[name].tolerance, size)


@everything
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)])
def test_half_precision(name, dtype, tolerance, nan_filled):
    assert_close(*both(CASES[name], 33, dtype), tolerance)


@everything
@settings(deadline=None, max_examples=4)
@given(size=st.integers(0, 40))
def test_any_size(name, size):
    assert_close(*both(CASES[name], size), CASES[name].tolerance, size)


def test_a_word_that_a_later_block_outweighs_counts_nothing():
    """The student excludes it, so its nats are infinite; the expert's share of it is 0 in float32 once all are seen."""
    logits, expert = torch.zeros(2, 3 * 4096), torch.zeros(2, 3 * 4096)
    logits[0, 5] = -math.inf
    expert[0, -1] = 1000
    logits.requires_grad_()
    with switched("fused"):
        found = distill_kl(logits, expert)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(found, torch.tensor([math.log(3 * 4096 - 1), 0.0]), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(gradient).all()
