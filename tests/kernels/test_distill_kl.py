import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from naslab.efficiency import count
from naslab.kernels import distill_kl
from naslab.kernels._dispatch import switched

everywhere = pytest.mark.parametrize("to", ["fused", "reference"])


@everywhere
def test_it_is_torch_s_divergence_of_each_row(to):
    torch.manual_seed(0)
    logits, expert = 3 * torch.randn(2, 7, 300), 3 * torch.randn(2, 7, 300)
    expected = F.kl_div(logits.log_softmax(-1), expert.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    with switched(to):
        torch.testing.assert_close(distill_kl(logits, expert), expected, rtol=1e-5, atol=1e-5)


@everywhere
def test_the_gradient_is_the_difference_of_the_probabilities_and_stops_at_the_expert(to):
    torch.manual_seed(1)
    logits, expert = torch.randn(6, 50, requires_grad=True), torch.randn(6, 50, requires_grad=True)
    weights = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.5, 0.0])
    with switched(to):
        (distill_kl(logits, expert) * weights).sum().backward()
    expected = weights[:, None] * (logits.softmax(1) - expert.softmax(1))
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-5, atol=1e-6)
    assert expert.grad is None


@everywhere
def test_equal_predictions_are_no_distance_apart(to):
    logits = 20 * torch.randn(3, 1000)
    with switched(to):
        assert torch.equal(distill_kl(logits, logits.clone()), torch.zeros(3))


@everywhere
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 80), st.floats(-50, 50), st.integers(0, 2**31))
def test_it_is_never_negative_and_unmoved_by_a_constant(to, vocabulary, constant, seed):
    generator = torch.Generator().manual_seed(seed)
    logits, expert = (5 * torch.randn(4, vocabulary, generator=generator) for _ in range(2))
    with switched(to):
        plain, moved = distill_kl(logits, expert), distill_kl(logits + constant, expert)
    rounding = 1e-6 * (100 + abs(constant))  # of log-sum-exps of this size in float32
    assert plain.min() >= -rounding
    assert (plain - moved).abs().max() <= 4 * rounding


@everywhere
def test_a_word_that_the_expert_excludes_counts_nothing(to):
    torch.manual_seed(2)
    logits, expert = torch.randn(4, 40, requires_grad=True), torch.randn(4, 40)
    expert[:, 30:] = -math.inf
    with switched(to):
        found = distill_kl(logits, expert)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
    p, log_q = expert[:, :30].softmax(1), logits.log_softmax(1)[:, :30]
    torch.testing.assert_close(found, (p * (p.log() - log_q)).sum(1), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(gradient).all()


@everywhere
def test_where_the_student_excludes_what_the_expert_says_the_distance_is_infinite(to):
    logits, expert = torch.zeros(1, 4), torch.zeros(1, 4)
    logits[0, 2] = -math.inf
    with switched(to):
        assert distill_kl(logits, expert).item() == math.inf


def test_the_profiler_sees_it():
    logits = torch.randn(3, 20, requires_grad=True)
    with switched("fused"):
        counted = count(lambda: distill_kl(logits, torch.randn(3, 20)).sum().backward())
    assert counted.coverage == 1, counted.uncovered
    assert counted.by_operation["naslab::distill_kl"].pointwise == 7 * 60
    assert counted.by_operation["naslab::distill_kl_backward"].pointwise == 5 * 60


@pytest.mark.parametrize(
    ("logits", "expert", "message"),
    [
        (torch.zeros(()), torch.zeros(()), "logits: "),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3), "logits: "),
        (torch.zeros(2, 3), torch.zeros(2, 4), "expert: "),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64), "expert: "),
    ],
)
def test_wrong_arguments_are_named(logits, expert, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        distill_kl(logits, expert)
