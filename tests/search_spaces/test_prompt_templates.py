"""Templates of prompts and the tokenizers that fill them, by what must hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmbff_small import MANUAL, SmallBertTokenizer, bert_tokenizer, infiller, roberta_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from naslab.errors import InputError
from naslab.search_spaces import find_space
from naslab.search_spaces.data.text import SpecialIds
from naslab.search_spaces.data.text.hub_tokenizers import plain_ids
from naslab.search_spaces.data.text.prompt_tokens import PromptTokenizer
from naslab.search_spaces.data.text.templates import PLAIN, Limits, parse_template

SPECIAL = SpecialIds(cls=1, sep=2, mask=3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=3, max_size=3),
    st.sampled_from([MANUAL, "*cls*_It's*mask*.*+sent_0**sep+*", "*cls**sentu_0*?*mask**sep*"]),
    st.integers(20, 60),
)
def test_whatever_the_texts_the_template_stays_whole_and_the_row_fits(lengths, source, length):
    def encode(text):
        return [10 if word == "x" else 11 for word in text.split()]

    template = parse_template(source)
    texts = [" ".join(["x"] * number) for number in lengths]
    shown = [((texts[1],), 7), ((texts[2],), 8)]
    row = template.fill(encode, SPECIAL, (texts[0],), Limits(length), shown)
    whole = template.fill(encode, SPECIAL, (texts[0],), Limits(1000), shown)
    assert len(row.ids) == min(length, len(whole.ids)) or len(whole.ids) - len(row.ids) < 1000
    assert len(row.ids) <= length
    assert row.ids[row.mask] == 3
    assert [token for token in row.ids if token != 10] == [token for token in whole.ids if token != 10]
    assert len(whole.ids) <= length or len(row.ids) > length - 3  # no more is cut than must be


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("*cls**sent_0*_It_was_great.*sep+*", "needs one *mask*, has 0"),
        ("*cls**sent_0**mask*_or*mask**sep+*", "needs one *mask*, has 2"),
        ("*cls*_It_was*mask*.*sep+*", "needs *sent_0*"),
        ("*cls**sent_1**mask**sep+*", "needs *sent_0*"),
        ("*cls**sent_0**maks**sep+*", "unknown variable *maks*"),
        ("*cls**sent_0*_It_was*mask*.*sep+", "an odd number of stars"),
        ("", "needs one *mask*, has 0"),
    ],
)
def test_what_is_no_template_is_refused_in_one_line(source, message):
    with pytest.raises(InputError) as caught:
        find_space("lmbff", "tiny", {"templates": [source]})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_generated_text_may_hold_stars_of_its_own():
    template = parse_template("*cls**sent_0*_**wow_*mask*.*sep+*", generated=True)
    assert [piece.text for piece in template.pieces if piece.kind == "text"] == [" ", "wow ", "."]


def test_without_a_mask_a_row_is_what_a_classifier_reads():
    row = PLAIN[1].fill(lambda text: [10] * len(text), SPECIAL, ("abcdef", "gh"), Limits(9, 4))
    assert row == ([1, 10, 10, 10, 10, 2, 10, 10, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1], 0)


def test_a_third_of_a_megabyte_in_one_text():
    """Cut in one step, not token by token."""
    row = parse_template(MANUAL).fill(lambda text: [10] * len(text), SPECIAL, ("x" * 300_000,), Limits(64))
    assert len(row.ids) == 64


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
def test_label_words_are_one_token(make):
    tokenizer = PromptTokenizer(make(), "given")
    assert tokenizer.tokenizer.decode([tokenizer.word("great")]).strip() == "great"
    with pytest.raises(InputError, match=r"'zebra': is \d tokens \(.*\); use a word that is one token"):
        tokenizer.word("zebra")


def test_a_letter_that_marks_words_elsewhere_marks_none_in_a_word_piece():
    """Maltese has a Ġ, which in byte-level tokenizers is the space before a word."""
    plain = dict(bert_tokenizer().get_vocab())
    found = PromptTokenizer(SmallBertTokenizer(vocab={**plain, "Ġ": len(plain), "▁": len(plain) + 1}), "here")
    words = found.whole_words(len(found))
    assert words[plain["great"]]
    assert words[plain["terrible"]]
    assert not words[plain["##g"]]
    assert not words[plain["[MASK]"]]


def test_numbers_may_have_gaps():
    plain = dict(bert_tokenizer().get_vocab())
    found = PromptTokenizer(SmallBertTokenizer(vocab={**plain, "[MASK]": 400}), "here")
    assert found.special.mask == 400 < len(found)
    words = found.whole_words(500)
    assert words[found.word("great")]
    assert words.sum() == sum(t.isalpha() for t in plain)


def test_a_word_without_a_space_before_it_is_a_label_word_where_the_space_is_a_token():
    """In SentencePiece's models of Chinese the space is a piece of its own before nearly every word."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), ("好", -1.0), ("差", -1.0)]
    names = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>"}
    codes = Tokenizer(models.Unigram(pieces, unk_id=3))
    codes.pre_tokenizer = pre_tokenizers.Metaspace()
    found = PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=codes, unk_token="<unk>", **names), "here")
    assert found.words(("差", "好"), "here") == (6, 5)
    with pytest.raises(InputError, match="is 3 tokens"):
        found.word("好差")


def test_a_mask_in_a_text_is_text():
    tokenizer = PromptTokenizer(bert_tokenizer(), "given")
    row = parse_template(MANUAL).fill(tokenizer.encode, tokenizer.special, ("a [MASK] film",), Limits(64))
    assert row.ids.count(tokenizer.special.mask) == 1
    assert row.mask > len(tokenizer.encode("a [MASK] film"))


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer, lambda: infiller()[1]])
def test_what_spells_a_special_token_is_text(make):
    """T5's SentencePiece holds its special tokens among its pieces, so that asking for plain text is not enough."""
    tokenizer = make()
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    names = tokenizer.all_special_tokens
    texts = ["the film", *(f"the{name}film" for name in names), "".join(names), f" {names[0]} {names[0]}"]
    rows = plain_ids(tokenizer, texts)
    assert rows[0] == tokenizer(["the film"], add_special_tokens=False)["input_ids"][0]
    assert all(row and special.isdisjoint(row) for row in rows)
    assert plain_ids(tokenizer, []) == []
