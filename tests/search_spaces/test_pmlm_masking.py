import math
from dataclasses import asdict

import pytest
import torch

from naslab.search_spaces.common.objectives.fates import Fates
from naslab.search_spaces.common.objectives.masked_blocks import (
    NOISE,
    PROPOSALS,
    Masking,
    first_come,
    mask,
    prediction_steps,
)
from naslab.search_spaces.data.text import SpecialIds

SPECIAL = SpecialIds()
VOCABULARY = 50


def texts(batch, length, pads=0, seed=0):
    ids = torch.randint(5, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    if pads:
        ids[-1, -1 - pads], ids[-1, -pads:] = SPECIAL.sep, SPECIAL.pad
    return ids


def noise(batch, length, seed=1):
    return torch.rand(batch, length, NOISE, generator=torch.Generator().manual_seed(seed))


def words_of(ids):
    return (ids != SPECIAL.cls) & (ids != SPECIAL.sep) & (ids != SPECIAL.pad)


def algorithm_1(words, draws, masking):
    """The paper's algorithm for one text, proposal after proposal; the blocks in their order."""
    length, blocks, taken = len(words), [], set()
    budget = masking.rate * sum(words) - 1e-9
    for where, kind, size in draws:
        start = min(int(where * length), length - 1)
        span = min(int(size * (masking.longest - 1)), masking.longest - 2) + 2
        cells = list(range(start, start + (span if kind < masking.span_share else 1)))
        if cells[-1] < length and all(words[c] and c not in taken for c in cells):
            if masking.exact:
                cells = cells[: math.ceil(budget) - len(taken)]
            blocks.append(cells)
            taken.update(cells)
        if len(taken) >= budget:
            break
    return blocks


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("rate", "share", "longest"), [(0.15, 0.4, 6), (0.5, 1.0, 10), (0.3, 0.0, 2), (0.5, 0.7, 2)])
def test_blocks_are_those_of_algorithm_1(rate, share, longest, exact):
    masking = Masking(rate=rate, span_share=share, longest=longest, exact=exact)
    ids, given = texts(40, 40, pads=11), noise(40, 40)
    steps = prediction_steps(words_of(ids), given, masking)
    number = min(PROPOSALS * masking.budget(38), 80)
    whole = 0
    for row in range(len(ids)):
        draws = given[row, :, :6].reshape(80, 3)[:number].tolist()
        blocks = algorithm_1(words_of(ids)[row].tolist(), draws, masking)
        wanted = torch.zeros(40, dtype=torch.long)
        for step, cells in enumerate(blocks, 1):
            wanted[cells] = step
        assert torch.equal(torch.where(steps[row] <= len(blocks), steps[row], 0), wanted)
        whole += int(torch.equal(steps[row], wanted))
    assert whole >= 30  # the others ran out of proposals and were filled


def test_first_come_is_one_after_the_other():
    generator = torch.Generator().manual_seed(3)
    starts = torch.randint(0, 30, (64, 200), generator=generator)
    lengths = torch.randint(1, 8, (64, 200), generator=generator)
    cells = starts[..., None] + torch.minimum(torch.arange(7), lengths[..., None] - 1)
    free = torch.rand(64, 200, generator=generator) < 0.9
    taken = first_come(cells, free, 40)
    for row in range(64):
        used, wanted = set(), []
        for own, allowed in zip(cells[row].tolist(), free[row].tolist(), strict=True):
            wanted.append(allowed and not used & set(own))
            used |= set(own) if wanted[-1] else set()
        assert taken[row].tolist() == wanted


def test_as_many_are_masked_as_the_paper_says():
    """Of 128 tokens at 15 %: at least 20, on average 16.5 % (simulated), blocks of 2.03 to 2.12 tokens."""
    steps = prediction_steps(torch.ones(4000, 128, dtype=torch.bool), noise(4000, 128), Masking())
    masked = (steps > 0).sum(1)
    assert masked.min() == 20
    assert masked.max() <= 25
    assert masked.double().mean() / 128 == pytest.approx(0.165, abs=0.003)
    assert masked.sum() / steps.amax(1).sum() == pytest.approx(2.08, abs=0.06)


@pytest.mark.parametrize("masking", [Masking(), Masking(exact=True), Masking(0.5, 1.0, 10), Masking(0.05, 0.0)])
@pytest.mark.parametrize("length", [3, 4, 8, 33])
def test_the_budget_is_met_whatever_the_text(masking, length):
    ids = texts(50, length, pads=1 if length > 3 else 0)
    steps = prediction_steps(words_of(ids), noise(50, length), masking)
    for row, words in zip(steps, words_of(ids), strict=True):
        masked = int((row > 0).sum())
        budget = masking.budget(int(words.sum()))
        assert budget <= masked <= masking.slots(length)
        assert masked == budget or not masking.exact
        assert not (row > 0)[~words].any()
        assert row[row > 0].unique().tolist() == list(range(1, int(row.max()) + 1))


def test_a_text_without_words_is_left_alone():
    ids = torch.tensor([[SPECIAL.cls, SPECIAL.sep, SPECIAL.pad, SPECIAL.pad]])
    masked = mask(ids, noise(1, 4), Masking(), SPECIAL, VOCABULARY)
    assert torch.equal(masked.ids_BL, ids)
    assert not masked.slots.steps_BM.any()


@pytest.mark.parametrize("single", [False, True])
def test_orders(single):
    words, given = torch.ones(30, 60, dtype=torch.bool), noise(30, 60)
    random, forth, back = (
        prediction_steps(words, given, Masking(0.4, order=order, single=single))
        for order in ("random", "left_to_right", "right_to_left")
    )
    assert torch.equal(random > 0, forth > 0)
    assert torch.equal(random > 0, back > 0)
    for row in range(30):
        ordered = forth[row][forth[row] > 0].tolist()
        assert ordered == sorted(ordered)
        assert back[row][back[row] > 0].tolist() == [max(ordered) + 1 - step for step in ordered]
        if single:
            assert sorted(random[row][random[row] > 0].tolist()) == list(range(1, len(ordered) + 1))
        assert random[row].max() == forth[row].max()
    assert not torch.equal(random, forth)


def test_single_tokens_hide_what_the_blocks_hid():
    words, given = torch.ones(20, 60, dtype=torch.bool), noise(20, 60)
    blocks, single = (prediction_steps(words, given, Masking(single=s)) for s in (False, True))
    assert torch.equal(blocks > 0, single > 0)


def test_every_token_may_be_anywhere_in_the_order():
    """The mean step of the tokens is half way: within six standard errors of a uniform order."""
    steps = prediction_steps(torch.ones(3000, 40, dtype=torch.bool), noise(3000, 40), Masking(0.3, 0.0))
    for place in (0, 17, 39):
        own = steps[:, place][steps[:, place] > 0].double()
        assert abs(own.mean() - 6.5) < 6 * 12 / math.sqrt(12 * len(own))


def test_corruption_is_80_10_10():
    ids = texts(400, 102)
    masked = mask(ids, noise(400, 102), Masking(exact=True), SPECIAL, VOCABULARY)
    slots = masked.slots
    assert slots.places_BM.shape == (400, 15)
    assert torch.equal(ids.gather(1, slots.places_BM), slots.originals_BM)
    shown = masked.ids_BL.gather(1, slots.places_BM)
    number = shown.numel()
    shares = [
        (shown == SPECIAL.mask).sum() / number,
        (shown == slots.originals_BM).sum() / number,
    ]
    chance = 1 / (VOCABULARY - len(asdict(SPECIAL)))
    for share, wanted in zip(shares, (0.8, 0.1 + 0.1 * chance), strict=True):
        assert abs(share - wanted) < 6 * math.sqrt(wanted * (1 - wanted) / number)
    assert shown.min() >= SPECIAL.mask
    rest = torch.ones_like(ids, dtype=torch.bool).scatter(1, slots.places_BM, False)
    assert torch.equal(masked.ids_BL[rest], ids[rest])


def test_nothing_is_kept_where_nothing_may_be():
    ids = texts(50, 52)
    masked = mask(ids, noise(50, 52), Masking(fates=Fates(1.0, 0.0)), SPECIAL, VOCABULARY)
    shown = masked.ids_BL.gather(1, masked.slots.places_BM)
    assert (shown[masked.slots.steps_BM > 0] == SPECIAL.mask).all()


def test_empty_slots_come_last():
    masked = mask(texts(200, 66), noise(200, 66), Masking(), SPECIAL, VOCABULARY)
    full = masked.slots.steps_BM > 0
    assert full.any(0).all()
    assert not full.all()
    assert (full.int().diff(dim=1) <= 0).all()
    assert (masked.slots.places_BM.diff(dim=1)[full[:, 1:]] > 0).all()
