import pytest
import torch

from naslab.search_spaces.common.scores import accuracy, choice_accuracy


def test_the_largest_logit_answers_and_equal_ones_share_the_point():
    logits = torch.tensor([[3.0, 1.0, 2.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 5.0]])
    assert accuracy(logits, torch.tensor([0, 1, 2, 0])) == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)


def test_what_finds_every_class_alike_scores_chance():
    assert accuracy(torch.zeros(10, 4), torch.arange(10) % 4) == pytest.approx(1 / 4)
    assert accuracy(torch.full((10, 4), torch.nan), torch.arange(10) % 4) == pytest.approx(1 / 4)


def test_labels_that_are_no_class_are_never_right():
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert accuracy(logits, torch.tensor([0, -1, 2, 0])) == pytest.approx(1 / 2)


def test_a_logit_that_is_not_a_number_is_never_the_largest():
    assert accuracy(torch.tensor([[torch.nan, 0.0], [0.0, torch.nan]]), torch.tensor([1, 0])) == 1.0
    assert accuracy(torch.tensor([[torch.inf, 1.0], [-torch.inf, 1.0]]), torch.tensor([0, 1])) == 1.0


def test_questions_may_have_as_many_options_as_they_like():
    scores = [torch.tensor([0.1, 0.9]), torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([0.5, 0.1])]
    assert choice_accuracy(scores, [1, 3, 1]) == pytest.approx((1 + 1 / 3 + 0) / 3)
