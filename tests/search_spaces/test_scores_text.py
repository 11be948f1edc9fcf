"""Scores of texts and answers against their definitions: by enumeration, by hand, and by what must add up."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.search_spaces.common.scores import label_words
from naslab.search_spaces.common.scores.accuracy import macro_f1, most_frequent
from naslab.search_spaces.common.scores.label_words import likely_words, nearest_words, search_mappings
from naslab.search_spaces.common.scores.retrieval import reranked
from naslab.search_spaces.common.scores.rouge import rouge_l
from naslab.search_spaces.common.scores.text_baselines import bits, lzma_bits, ngram_bits

words = st.lists(st.sampled_from("abc"), max_size=6)


def subsequences(sequence):
    return {
        tuple(sequence[i] for i in c)
        for n in range(len(sequence) + 1)
        for c in itertools.combinations(range(len(sequence)), n)
    }


@given(words, words)
@settings(deadline=None)
def test_rouge_is_the_f1_of_the_longest_common_subsequence(a, b):
    common = max(len(one) for one in subsequences(a) & subsequences(b))
    expected = 0.0 if not common else 2 / (len(a) / common + len(b) / common)
    assert rouge_l(a, b) == pytest.approx(expected)
    assert rouge_l(a, a) == (1.0 if a else 0.0)


def test_an_n_gram_model_is_witten_and_bells_by_hand():
    """After "a a b", of four tokens. The unigram has seen 3 of 2 kinds: a token seen n times has (n + 2/4) / 5."""
    train = torch.tensor([0, 0, 1])
    a, b, other = (Fraction(2 * n + 1, 10) for n in (2, 1, 0))
    for text, expected in (([0], a), ([1], b), ([3], other), ([0, 1], a * b)):
        assert ngram_bits(train, torch.tensor(text), 4, 1) == pytest.approx(-math.log2(expected))
    assert ngram_bits(train, torch.tensor([2, 3]), 4, 0) == pytest.approx(2 * math.log2(4)), (
        "without any order all alike"
    )
    # After an a came once an a and once a b: (1 + 2 p) / 4. After a b nothing came, so the unigram stands.
    pairs = a * (1 + 2 * b) / 4 * a
    assert ngram_bits(train, torch.tensor([0, 1, 0]), 4, 2) == pytest.approx(-math.log2(pairs))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.lists(st.integers(0, 2), max_size=4), st.integers(0, 4))
@settings(deadline=None)
def test_what_may_follow_has_a_probability_of_one_in_all(train, text, order):
    def of(tokens):
        return ngram_bits(torch.tensor(train), torch.tensor(tokens, dtype=torch.long), 4, order)

    assert sum(2 ** (of(text) - of([*text, token])) for token in range(4)) == pytest.approx(1.0)


def test_bits_are_told_by_the_byte_and_against_the_raw_ones():
    assert bits(12.0, 4.0, 8.0) == {"saved_bits_per_byte": 5.0, "bits_per_byte": 3.0}


def test_a_compressor_needs_less_for_what_it_has_seen():
    text = "".join(chr(97 + (7 * i * i + i // 3) % 26) for i in range(2000))
    fresh, again = lzma_bits("", text), lzma_bits(text, text)
    assert 0 < again < fresh / 4
    assert fresh % 8 == again % 8 == 0
    assert fresh < 8 * len(text)


def test_the_f1_of_the_classes_is_joined_by_a_plain_mean():
    """Class 0: 2 right of 3 answers and 2 texts (4/5); class 1: 1 of 1 and of 2 (2/3); class 2 does not occur."""
    logits = torch.eye(3)[[0, 0, 0, 1]]
    assert macro_f1(logits, torch.tensor([0, 0, 1, 1])) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert macro_f1(torch.eye(3), torch.tensor([1, 2, 0])) == 0.0
    assert macro_f1(torch.ones(2, 3), torch.tensor([0, 0])) == 1.0, "of equals the first"


def test_the_most_frequent_class_is_the_lowest_of_equals():
    assert most_frequent(torch.tensor([2, 2, 1, 0]), torch.tensor([2, 2, 0, 1])) == 0.5
    assert most_frequent(torch.tensor([2, 2, 1, 1]), torch.tensor([1, 0, 2, 0])) == 0.25


@given(st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_the_best_are_ranked_again_and_stay_before_the_others(seed, best):
    rng = np.random.default_rng(seed)
    similarity = torch.from_numpy(rng.permutation(24).reshape(4, 6) / 24)
    odds = torch.from_numpy(rng.normal(size=(4, 6)) * 10)
    asked = []

    def log_odds(queries, items):
        asked.extend(zip(queries.tolist(), items.tolist(), strict=True))
        return odds[queries, items]

    found = reranked(similarity, best, log_odds)
    number = min(best, 6)
    assert [item for _, item in asked] == sorted(item for _, item in asked), "item by item"
    assert len(set(asked)) == len(asked) == 4 * number
    for query in range(4):
        before = similarity[query].argsort(descending=True).tolist()
        first = sorted(before[:number], key=lambda item: -odds[query, item])
        assert found[query].argsort(descending=True).tolist() == first + before[number:]
    # Across queries what was ranked again keeps the order of its odds, which the way back from items relies on.
    pairs = sorted(asked, key=lambda pair: found[pair])
    assert pairs == sorted(asked, key=lambda pair: odds[pair])
    assert min(found[pair] for pair in asked) == 2.0, "above every cosine"


LOGITS = np.array([[5.0, 1.0, 3.0, 0.0], [4.0, 0.0, 9.0, 1.0], [0.0, 7.0, 6.0, 2.0], [1.0, 2.0, 3.0, 8.0]])
LABELS = np.array([0, 0, 1, 1])


def test_likely_words_are_those_of_the_highest_mean_logit_of_a_class_that_are_allowed():
    everything = np.ones(4, dtype=bool)
    # Means of class 0: 4.5, 0.5, 6, 0.5; of class 1: 0.5, 4.5, 4.5, 5. Of equals the first.
    assert [found.tolist() for found in likely_words(LOGITS, LABELS, everything, 3)] == [[2, 0, 1], [3, 1, 2]]
    allowed = np.array([True, True, False, True])
    assert [found.tolist() for found in likely_words(LOGITS, LABELS, allowed, 2)] == [[0, 1], [3, 1]]


def test_the_nearest_words_are_so_by_direction():
    vectors = np.array([[1.0, 0.0], [100.0, 100.0], [0.1, 0.001], [0.0, 1.0], [0.0, 0.0]])
    likely = [np.array([1, 2, 3, 4]), np.array([0, 1, 2])]
    assert [found.tolist() for found in nearest_words(likely, [0, 3], vectors, 2)] == [[2, 1], [1, 2]]


def by_enumeration(logits, labels, candidates):
    """Every combination of different words with its accuracy, in the order of the words."""
    return [
        (chosen, float((logits[:, list(chosen)].argmax(1) == labels).mean()))
        for chosen in itertools.product(*candidates)
        if len(set(chosen)) == len(chosen)
    ]


@given(st.integers(0, 10**6), st.integers(2, 3), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_best_mappings_are_those_of_the_enumeration(seed, classes, number):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(12, 6)), np.r_[np.arange(classes), rng.integers(classes, size=12 - classes)]
    candidates = [rng.permutation(6)[:3] for _ in range(classes)]
    every = by_enumeration(logits, labels, [of_class.tolist() for of_class in candidates])
    best = sorted(every, key=lambda one: -one[1])[:number]
    found = search_mappings(logits, labels, candidates, number)
    assert [(one.words, one.accuracy) for one in found] == [(w, pytest.approx(a)) for w, a in best]
    beam = search_mappings(logits, labels, candidates, number, most=0)
    assert [one.accuracy for one in beam] == pytest.approx([a for _, a in best]), "a beam that has room for all"


def test_as_many_combinations_as_allowed_are_all_tried(monkeypatch):
    def no_beam(*arguments):
        raise AssertionError("a beam")

    monkeypatch.setattr(label_words, "_beam", no_beam)
    candidates = [np.array([0, 2]), np.array([1, 3])]
    assert len(search_mappings(LOGITS, LABELS, candidates, 9, most=4)) == 4
    with pytest.raises(AssertionError, match="a beam"):
        search_mappings(LOGITS, LABELS, candidates, 9, most=3)


def test_a_beam_goes_on_from_what_tells_the_classes_so_far_apart(monkeypatch):
    """Words 0 and 1 do; 4 is the likeliest of the examples of both."""
    monkeypatch.setattr(label_words, "BEAM", 1)
    logits = np.array([[9.0, 0, 0, 0, 10], [0, 9, 0, 0, 10], [0, 0, 1, 3, 0], [2, 2, 1, 3, 0]])
    labels = np.array([0, 1, 2, 2])
    candidates = [np.array([4, 0]), np.array([4, 1]), np.array([2, 3])]
    assert search_mappings(logits, labels, candidates, 1, most=0) == [((0, 1, 3), 1.0)]


def test_scores_are_compared_in_parts(monkeypatch):
    whole = search_mappings(LOGITS, LABELS, [np.arange(4), np.arange(4)], 12)
    monkeypatch.setattr(label_words, "CHUNK", 8)
    assert search_mappings(LOGITS, LABELS, [np.arange(4), np.arange(4)], 12) == whole
    assert len(whole) == 12, "no word stands for both"


def test_no_combination_of_different_words_is_no_mapping():
    assert search_mappings(LOGITS, LABELS, [np.array([1]), np.array([1])], 3) == []
