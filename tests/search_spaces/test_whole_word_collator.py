"""Words of a tokenizer and the collator that hides them, against transformers' and against masks made by hand."""

import math
from dataclasses import asdict
from itertools import groupby

import numpy as np
import pytest
import torch

from naslab.errors import InputError
from naslab.search_spaces.common.objectives.masked_units import (
    Budget,
    Fates,
    run_index,
)
from naslab.search_spaces.data.text import IGNORED, SpecialIds, TextTokenizer, train_wordpiece
from naslab.search_spaces.whole_word.collator import WholeWordCollator

SPECIAL = SpecialIds()
ENGLISH = ["unbelievable embeddings are re-tokenized, aren't they?", "the snake_case of unbelievable things"]


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A tokenizer of transformers over the words of the tests, with pieces."""
    from transformers import BertTokenizer

    pieces = "un ##believ ##able em ##bed ##dings are re - token ##ized , aren ' t they ? the snake _ case of things"
    names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *pieces.split(), "使", "用", "语", "言", "。"]
    folder = tmp_path_factory.mktemp("peer")
    (folder / "vocab.txt").write_text("\n".join(names), encoding="utf-8")
    return BertTokenizer(str(folder / "vocab.txt"))


def masked_by_peer(peer, texts):
    """Groups that transformers' own collator hides together, from many draws: a set of positions for each word."""
    from transformers import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(
        peer, whole_word_mask=True, mask_replace_prob=1, random_replace_prob=0, mlm_probability=0.5, seed=0
    )
    codes = peer(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
    given = [{name: codes[name][i] for name in codes} for i in range(len(texts))]
    return torch.stack([collate([dict(one) for one in given])["labels"] != IGNORED for _ in range(64)])


def together(hidden):
    """Which positions were always hidden together, or never: one class a word."""
    return [tuple(column.tolist()) for column in hidden.T]


def ours(peer, texts, words=None):
    codes = peer(texts)
    numbers = words or [codes.word_ids(i) for i in range(len(texts))]
    special = SpecialIds(*(getattr(peer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask", "unk")))
    collate = WholeWordCollator(special, len(peer), Budget(0.3), Fates(1.0, 0.0), seed=0)
    given = [{"input_ids": codes["input_ids"][i], "words": numbers[i]} for i in range(len(texts))]
    return torch.stack([collate(given)["labels"] != IGNORED for _ in range(200)])


def test_without_punctuation_words_are_those_of_transformers(peer):
    texts = ["unbelievable embeddings are the case of things"]
    theirs, mine = together(masked_by_peer(peer, texts)[:, 0]), together(ours(peer, texts)[:, 0])
    for first in range(len(mine)):
        for second in range(len(mine)):
            assert (theirs[first] == theirs[second]) == (mine[first] == mine[second])


def test_punctuation_and_unsegmented_chinese_are_apart_here_and_glued_there(peer):
    tokens = peer.tokenize("embeddings, re-tokenized")
    theirs, mine = (together(found[:, 0])[1:-1] for found in (masked_by_peer(peer, ["embeddings, re-tokenized"]),
                                                              ours(peer, ["embeddings, re-tokenized"])))  # fmt: skip
    comma, dash = tokens.index(","), tokens.index("-")
    assert theirs[comma] == theirs[comma - 1]
    assert theirs[dash] == theirs[dash - 1] == theirs[dash + 1]
    assert mine[comma] != mine[comma - 1]
    assert len({mine[dash], mine[dash - 1], mine[dash + 1]}) == 3
    assert mine[0] == mine[1] == mine[2]
    theirs = together(masked_by_peer(peer, ["使用语言。"])[:, 0])[1:-1]
    assert len(set(theirs)) == 1
    mine = together(ours(peer, ["使用语言。"], [[-1, 0, 0, 1, 1, 2, -1]])[:, 0])[1:-1]
    assert mine[0] == mine[1] != mine[2] == mine[3] != mine[4]


def test_the_tokenizers_own_words_are_berts():
    tokenizer = train_wordpiece([*ENGLISH * 5, "a bc"], 80, SPECIAL, 40)
    assert isinstance(tokenizer, TextTokenizer)
    inverse = {number: token for token, number in tokenizer.vocabulary.items()}
    ids, words = tokenizer(ENGLISH), tokenizer.words(ENGLISH)
    for row, numbers in zip(ids.tolist(), words.tolist(), strict=True):
        word = -1
        for token, number in zip(row, numbers, strict=True):
            if token in (SPECIAL.pad, SPECIAL.cls, SPECIAL.sep):
                assert number == -1
            else:
                word += not inverse[token].startswith("##")
                assert number == word


def test_the_collator_pads_draws_anew_and_repeats_by_its_seed():
    texts = [
        {"input_ids": [1, 5, 6, 7, 2], "words": [None, 0, 0, 1, None]},
        {"input_ids": [1, 8, 2], "words": [-1, 0, -1]},
    ]
    first, again = (WholeWordCollator(SPECIAL, 20, Budget(0.4), seed=3) for _ in range(2))
    batches = [[collate(texts) for _ in range(20)] for collate in (first, again)]
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert one["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
        assert (one["labels"][1, [0, 2, 3, 4]] == IGNORED).all()
    assert len({tuple(batch["labels"][0].tolist()) for batch in batches[0]}) > 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts: none"),
        ([{"input_ids": [1, 5, 2], "words": [0]}], "text 1: 3 tokens, but 1 numbers of words"),
        ([{"input_ids": [1, 5, 2], "word_ids": [None, 0, None]}], "text 1: has no 'words'"),
        ([{"input_ids": [1, 5, 2], "words": None}], "text 1: 'words' is no row of numbers, but None"),
        ([{"input_ids": [1, 5, 2], "words": ["a", "b", "c"]}], "text 1: tokens and words are rows of whole numbers"),
        ([{"input_ids": [[1, 5, 2]], "words": [[None, 0, None]]}], "text 1: tokens and words are rows of whole"),
    ],
)
def test_what_the_collator_cannot_read_is_said_in_one_line(texts, message):
    with pytest.raises(InputError, match=message):
        WholeWordCollator(SPECIAL, 20, Budget(0.4))(texts)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Budget(0.0), "a rate of 0 is no share"),
        (lambda: Budget(15), "a rate of 15 is no share"),
        (lambda: Budget(float("nan")), "a rate of nan is no share"),
        (lambda: Budget(0.15, 0), "at most 0 hidden tokens"),
        (lambda: Fates(0.8, 0.3), "do not fit in 1"),
        (lambda: Fates(-0.1, 0.3), "do not fit in 1"),
        (lambda: WholeWordCollator(SPECIAL, 5, Budget(0.4)), "leave words in a vocabulary of 5"),
        (lambda: WholeWordCollator(SpecialIds(mask=4), 20, Budget(0.4)), "must differ"),
        (lambda: WholeWordCollator(SPECIAL, 20, Budget(0.4), multiple_of=0), "a multiple of 1 or more"),
    ],
)
def test_what_hides_nothing_or_too_much_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()


def test_words_of_a_second_text_are_others_though_their_numbers_begin_anew():
    """`word_ids()` of a pair of texts: 0 0 1, then again 0 1 1."""
    words = [None, 0, 0, 1, None, 0, 1, 1, None]
    collate = WholeWordCollator(SPECIAL, 40, Budget(0.3), Fates(1.0, 0.0))
    text = {"input_ids": [1, 5, 6, 7, 2, 8, 9, 10, 2], "words": words}
    hidden = torch.stack([collate([text])["labels"][0] != IGNORED for _ in range(200)])
    classes = together(hidden)
    assert classes[1] == classes[2]
    assert classes[6] == classes[7]
    assert len({classes[1], classes[3], classes[5], classes[6]}) == 4
    assert run_index(torch.tensor([[0, 0, -1, 0, 5, 5, 3, -1, 3]])).tolist() == [[0, 0, -1, 1, 2, 2, 3, -1, 4]]


@pytest.mark.parametrize("longest", [3, 8, 9])
def test_texts_are_padded_to_a_multiple(longest):
    texts = [{"input_ids": [1, *[5] * (n - 2), 2], "words": [-1, *range(n - 2), -1]} for n in (3, longest)]
    batch = WholeWordCollator(SPECIAL, 20, Budget(0.4), multiple_of=8)(texts)
    assert all(tensor.shape == (2, 16 if longest == 9 else 8) for tensor in batch.values())
    assert batch["attention_mask"].sum(1).tolist() == [3, longest]


@pytest.mark.parametrize("made", [tuple, lambda row: np.array(row, float), lambda row: torch.tensor(row)])
def test_whatever_holds_the_numbers_the_batch_is_the_same(made):
    """None, or NaN in an array, is what no word has: at the ends, and between the two texts of a pair."""
    words = [None, 0, 0, 1, None, 0, 1, None]
    ids = list(range(10, 18))

    def batch(ids, words):
        collate = WholeWordCollator(SpecialIds(), 30, Budget(0.5))
        return collate([{"input_ids": ids, "words": words}] * 3)

    plain = batch(ids, words)
    assert (plain["labels"][:, [0, 4, 7]] == IGNORED).all()
    known = words if made is tuple else [math.nan if word is None else word for word in words]
    assert all(torch.equal(batch(made(ids), made(known))[name], plain[name]) for name in plain)


def by_hand(texts, noise, budget, fates, vocabulary):
    """The collator's batch of these draws, a text and a word at a time."""
    length, numbers = noise.shape[2], [n for n in range(vocabulary) if n not in asdict(SPECIAL).values()]
    batch = {name: [] for name in ("input_ids", "attention_mask", "labels")}
    for row, text in enumerate(texts):
        ids = [SPECIAL.pad if n is None else int(n) for n in text["input_ids"]]
        words = [-1 if n is None or math.isnan(n) else int(n) for n in text["words"]]
        runs = [list(run) for number, run in groupby(range(len(ids)), words.__getitem__) if number >= 0]
        left, hidden = budget.of(sum(n != SPECIAL.pad for n in ids)), set()
        for place in sorted(range(len(runs)), key=lambda place: noise[0, row, place]):
            if len(runs[place]) <= left:
                hidden |= set(runs[place])
                left -= len(runs[place])
        filled = ids + [SPECIAL.pad] * (length - len(ids))
        batch["attention_mask"].append([int(n != SPECIAL.pad) for n in filled])
        batch["labels"].append([n if place in hidden else IGNORED for place, n in enumerate(filled)])
        for run in runs:
            for place in hidden & set(run):
                fate = noise[1, row, runs.index(run)] if fates.of == "unit" else noise[2, row, place]
                if fate < np.float32(fates.mask):
                    filled[place] = SPECIAL.mask
                elif fate < np.float32(fates.mask + fates.random):
                    filled[place] = numbers[int(noise[3, row, place] * np.float32(len(numbers)))]
        batch["input_ids"].append(filled)
    return batch


def odd_text(rng):
    """Empty, one token, special tokens alone, unknown tokens, a word longer than any budget; numbers in any form."""
    length = int(rng.choice([0, 1, 2, 7, 40]))
    ids = rng.choice([*range(5, 30), SPECIAL.unk, SPECIAL.unk], length)
    kind = rng.choice(["words", "special", "one word", "pairs"])
    words = {
        "words": rng.integers(0, 4, length).cumsum(),
        "special": np.full(length, -1),
        "one word": np.zeros(length, int),
        "pairs": np.r_[np.arange(length // 2) // 2, np.arange(length - length // 2) // 3],
    }[str(kind)]
    words = np.where(rng.random(length) < 0.2, -1, words)
    gaps = [None if n < 0 else int(n) for n in words]
    holes = [math.nan if n is None else n for n in gaps]
    forms = [words, words.tolist(), tuple(gaps), gaps, holes, np.array(gaps, object), np.array(holes, float),
             torch.tensor(words), [*words], words.astype(np.int16)]  # fmt: skip
    forms_of_ids = [ids, ids.tolist(), tuple(ids), torch.tensor(ids), ids.astype(np.uint8)]
    chosen = {"words": forms[rng.integers(len(forms))], "input_ids": forms_of_ids[rng.integers(len(forms_of_ids))]}
    return chosen, {"words": gaps, "input_ids": ids.tolist()}


@pytest.mark.parametrize("of", ["token", "unit"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_odd_texts_in_any_form_are_masked_as_by_hand(of, multiple):
    rng = np.random.default_rng(0)
    for seed in range(60):
        budget, fates = Budget(float(rng.choice([0.01, 0.15, 0.5, 1.0])), rng.choice([None, 3])), Fates(0.5, 0.3, of)
        given, plain = zip(*(odd_text(rng) for _ in range(rng.integers(1, 6))), strict=True)
        batch = WholeWordCollator(SPECIAL, 30, budget, fates, seed, multiple)(given)
        noise = torch.rand(4, *batch["labels"].shape, generator=torch.Generator().manual_seed(seed)).numpy()
        expected = by_hand(plain, noise, budget, fates, 30)
        assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
