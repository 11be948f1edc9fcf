"""Exact budgets, whole units and fates, against BERT's published generator and a loop."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from naslab.search_spaces.common.objectives.masked_units import (
    Budget,
    Fates,
    choose_units,
    mask_units,
    unit_index,
    unit_lengths,
)
from naslab.search_spaces.common.objectives.units import UNITS, phrases, spans, units_of
from naslab.search_spaces.data.text import IGNORED, SpecialIds
from naslab.search_spaces.whole_word.batches import packed

PUBLISHED = json.loads((Path(__file__).parent / "published" / "bert_masks.json").read_text())
SPECIAL = SpecialIds()


def words_by_continuation(ids):
    """BERT's rule on the recorded vocabulary: [CLS] and [SEP] apart, a ## piece belongs to the word before it."""
    numbers, word = [], -1
    for token in ids:
        word += PUBLISHED["special"] <= token < PUBLISHED["continued"]
        numbers.append(word if token >= PUBLISHED["special"] else -1)
    return numbers


@pytest.mark.parametrize("case", PUBLISHED["cases"], ids=range(len(PUBLISHED["cases"])))
def test_masks_are_those_of_berts_own_generator(case):
    ids, words = torch.tensor([case["ids"]]), torch.tensor([words_by_continuation(case["ids"])])
    noise = torch.rand(4, *ids.shape, dtype=torch.double)
    order = [int(words[0, first]) for first in case["order"]]
    noise[0, 0, order] = torch.arange(len(order), dtype=torch.double) / len(order)
    for position, (fate, word) in case["noise"].items():
        noise[2:, 0, int(position)] = torch.tensor([fate, word], dtype=torch.double)
    masked = mask_units(
        ids, unit_index(words), noise, Budget(case["rate"], case["most"]), Fates(), SPECIAL, PUBLISHED["vocabulary"]
    )
    assert masked.ids_BL[0].tolist() == case["masked"]
    assert (masked.labels_BL[0] != IGNORED).nonzero().flatten().tolist() == case["positions"]
    hidden = masked.labels_BL != IGNORED
    assert torch.equal(masked.labels_BL[hidden], ids[hidden])


def drawn_words(rng, length):
    """Numbers that rise by one or more, words of 1 to 6 tokens, special tokens at the ends and here and there."""
    numbers, word = [-1], 0
    while len(numbers) < length - 1:
        numbers += [word] * int(rng.integers(1, 7)) + [-1] * int(rng.random() < 0.1)
        word += int(rng.integers(1, 4))
    return [*numbers[: length - 1], -1]


def chosen_one_by_one(words, order, budget):
    """The rule as a loop: each word in turn, unless it would pass the budget."""
    found, names = set(), list(dict.fromkeys(word for word in words if word >= 0))
    for place in sorted(range(len(names)), key=lambda place: order[place]):
        if len(found) + words.count(names[place]) <= budget:
            found |= {i for i, word in enumerate(words) if word == names[place]}
    return found


@pytest.mark.parametrize(("length", "most"), [(3, 3), (17, 17), (64, 64), (130, 130), (130, 3)])
def test_units_are_chosen_as_a_loop_chooses_them(length, most):
    rng = np.random.default_rng(length)
    words = [drawn_words(rng, length) for _ in range(40)]
    order, budget = torch.rand(40, length), torch.randint(1, most, (40,))
    hidden = choose_units(unit_index(torch.tensor(words)), order, budget)
    for row in range(40):
        expected = chosen_one_by_one(words[row], order[row].tolist(), int(budget[row]))
        assert set(hidden[row].nonzero().flatten().tolist()) == expected


def test_a_text_without_words_or_without_tokens_hides_nothing():
    for words in (torch.full((2, 5), -1), torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, 5, dtype=torch.long)):
        hidden = choose_units(unit_index(words), torch.rand(words.shape), torch.ones(len(words), dtype=torch.long))
        assert hidden.shape == words.shape
        assert not hidden.any()


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
@pytest.mark.parametrize("most", [None, 7])
def test_the_budget_is_berts(rate, most):
    for tokens in range(3, 513):
        expected = max(1, int(round(tokens * rate)))  # noqa: RUF046 as published
        assert Budget(rate, most).of(tokens) == (expected if most is None else min(most, expected))


def test_where_single_tokens_are_left_the_budget_is_met_to_the_token():
    rng = np.random.default_rng(1)
    words = torch.tensor([drawn_words(rng, 128) for _ in range(64)])
    words[:, 60:80] = words.max() + torch.arange(20)
    words[:, 80:-1] = torch.where(words[:, 80:-1] >= 0, words[:, 80:-1] + 10_000, -1)
    for unit in ("character", "word", "span"):
        units = units_of(unit, words, torch.rand(64, 128))
        hidden = choose_units(unit_index(units), torch.rand(64, 128), torch.full((64,), 19))
        assert hidden.sum(1).tolist() == [19] * 64


@pytest.mark.parametrize("unit", UNITS)
def test_units_rise_and_leave_special_tokens_out(unit):
    rng = np.random.default_rng(2)
    words = torch.tensor([drawn_words(rng, 50) for _ in range(30)])
    units = units_of(unit, words, torch.rand(30, 50), 3)
    assert torch.equal(units < 0, words < 0)
    for row in units:
        kept = row[row >= 0]
        assert (kept[1:] >= kept[:-1]).all()


def test_spans_have_the_very_lengths_of_the_words_and_stand_elsewhere():
    rng = np.random.default_rng(3)
    words = torch.tensor([drawn_words(rng, 200) for _ in range(20)])
    found = spans(words, torch.rand(20, 200))
    ours, theirs = (unit_lengths(unit_index(units)).sort(1).values for units in (found, words))
    assert torch.equal(ours, theirs)
    assert not torch.equal(unit_index(found), unit_index(words))


def test_phrases_are_of_whole_words_with_macberts_shares():
    words = torch.arange(4000)[None] // 2
    found = phrases(words, torch.rand(1, 4000, generator=torch.Generator().manual_seed(0)), 4)
    lengths = unit_lengths(unit_index(found))[0, :-1] // 2
    assert torch.equal(found[:, ::2], found[:, 1::2])
    counts = torch.bincount(lengths, minlength=5)[1:]
    for share, count in zip((0.4, 0.3, 0.2, 0.1), counts.tolist(), strict=True):
        assert abs(count - share * len(lengths)) < 5 * math.sqrt(share * (1 - share) * len(lengths))
    assert torch.equal(unit_index(phrases(words, torch.rand(1, 4000), 1)), unit_index(words))


@pytest.mark.parametrize("of", ["token", "unit"])
def test_fates_have_their_shares_and_whole_units_share_one(of):
    ids = torch.randint(5, 100, (200, 96), generator=torch.Generator().manual_seed(0))
    words = (torch.arange(96) // 3).expand(200, -1)
    noise = torch.rand(4, 200, 96, generator=torch.Generator().manual_seed(1))
    masked = mask_units(ids, unit_index(words), noise, Budget(0.5), Fates(0.7, 0.2, of), SPECIAL, 100)
    hidden = masked.labels_BL != IGNORED
    assert hidden.sum(1).tolist() == [48] * 200
    masks, kept = (masked.ids_BL == SPECIAL.mask) & hidden, (masked.ids_BL == ids) & hidden
    draws = int(hidden.sum()) / (3 if of == "unit" else 1)
    for found, share in ((masks, 0.7), (kept, 0.1 + 0.2 / 95)):
        got = float(found.sum() / hidden.sum())
        assert abs(got - share) < 5 * math.sqrt(share * (1 - share) / draws)
    assert torch.equal(masked.ids_BL[~hidden], ids[~hidden])
    assert not torch.isin(masked.ids_BL[hidden & ~masks], torch.tensor(list(asdict(SPECIAL).values()))).any()
    whole = masks.view(200, 32, 3).sum(2)
    assert bool(((whole == 0) | (whole == 3)).all()) == (of == "unit")


def test_packed_masks_unpack_to_the_same():
    rng = np.random.default_rng(5)
    words = torch.tensor([drawn_words(rng, 40) for _ in range(16)])
    ids = torch.randint(5, 90, words.shape)
    masked = mask_units(ids, unit_index(words), torch.rand(4, 16, 40), Budget(0.2), Fates(), SPECIAL, 90)
    batch = packed(masked, Budget(0.2).of(40))
    labels = torch.full_like(ids, IGNORED).scatter(1, batch["places_BM"], batch["labels_BM"])
    assert torch.equal(labels, masked.labels_BL)
    assert batch["labels_BM"].shape == (16, 8)
    hidden = (batch["labels_BM"] != IGNORED).sum(1)
    assert len(set(hidden.tolist())) > 1
    assert float((batch["weight_B"] * hidden).mean()) == pytest.approx(1)
