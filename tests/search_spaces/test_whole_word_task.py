"""Training and scores of whole-word masking on little text, its models from and to transformers' folders."""

import itertools
import json

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, BertTokenizer

from naslab.errors import InputError
from naslab.search_spaces import find_space, make_task, seed_everything
from naslab.search_spaces.common.modules.masked_lm import BertSizes, export_masked_lm, fresh_masked_lm, load_masked_lm
from naslab.search_spaces.common.objectives.masked_units import Masked
from naslab.search_spaces.data.text import IGNORED, pretrained_tokenizer
from naslab.search_spaces.whole_word.batches import packed
from naslab.search_spaces.whole_word.scoring import recovery

SIZES = {"vocabulary": 400, "length": 24, "width": 16}
FEW = {
    "epochs": 2, "steps_per_epoch": 3, "batch_size": 8, "sentence_length": 20, "probe_windows": 8,
    "held_out_windows": 12, "tuning": {"epochs": 1, "batch_size": 8},
}  # fmt: skip
CPU = torch.device("cpu")
CLAUSES = [
    "我们/r 使用/v 语言/n 模型/n", "江/nr 泽民/nr 访问/v 北京/ns", "他们/r 预测/v 明天/t 天气/n",
    "大家/r 学习/v 深度/n", "这家/r 酒店/n 非常/d 干净/a", "电影/n 十分/d 无聊/a",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A marked corpus of sixty distinct texts, and forty labelled sentences, in Chinese."""
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"{a} ，/w {b} {n}/m 。/w" for n, (a, b) in enumerate(itertools.permutations(CLAUSES, 2), 10)]
    lines += [f"{n}/m {a} 。/w" for n, a in enumerate(CLAUSES * 5, 200)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = [f"这家酒店{('非常干净', '十分无聊')[n % 2]}{n}\t{('good', 'bad')[n % 2]}" for n in range(40)]
    (folder / "labelled.tsv").write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    corpus = {"corpus": "files", "files": [str(folder / "corpus.txt")], "marked": "words_and_tags"}
    return {"corpus": corpus, "sentences": {"name": "files", "root": str(folder / "labelled.tsv")}}


@pytest.fixture(scope="module")
def make(files):
    def made(sizes=None, **options):
        given = {**SIZES, "segmenters": ["gold"], **(sizes or {})}
        space = find_space("whole_word", "tiny", {name: value for name, value in given.items() if value is not None})
        return make_task(space, {**FEW, **files, **options}, CPU)

    return made


@pytest.fixture(scope="module")
def task(make):
    return make()


def trained(task, **changed):
    seed_everything(0)
    model = task.space.build(task.space.configuration({**task.space.reference, **changed}))
    return model, list(task.train(model, 1))


def test_every_unit_trains_on_the_same_windows_with_as_many_hidden(task):
    windows = {}
    for unit in ("character", "word", "span", "entity", "ngram"):
        values = {name: v for name, v in task.space.reference.as_dict().items() if name not in ("space", "segmenter")}
        values |= {"unit": unit} | ({} if unit == "character" else {"segmenter": "gold"})
        plan = task.space.plan(task.space.configuration(values | ({"longest": 3} if unit == "ngram" else {})))
        row, words = task.data.rows.train, task._words(plan).numbers_T
        batch = task.windows.drawn(row.ids_T, words, plan, 8, 5, 0, task.batches_per_pass)
        labels = batch["labels_BM"]
        restored = batch["ids_BL"].scatter(
            1, batch["places_BM"], torch.where(labels == IGNORED, batch["ids_BL"].gather(1, batch["places_BM"]), labels)
        )
        windows[unit] = restored
        assert (restored[:, 0] == task.special.cls).all()
        hidden = (labels != IGNORED).sum(1)
        assert (hidden <= plan.budget.of(24)).all()
        if unit in ("character", "word", "span"):
            assert (hidden == plan.budget.of(24)).all()
    assert all(torch.equal(windows["character"], other) for other in windows.values())


def test_facts_of_a_rung_name_the_segmentation(task):
    _, rungs = trained(task)
    assert [rung.facts["steps"] for rung in rungs] == [3, 6]
    assert rungs[-1].facts["tokens"] == 6 * 8 * 24
    assert rungs[0].facts["segmentation_seconds"] > 0
    assert rungs[0].facts["unaligned_percent"] == 0


def test_parts_of_a_batch_add_up_to_it(task):
    """What accumulation and several processes rely on, also where texts have fewer hidden tokens, or none."""
    model = task.space.build(task.space.reference)
    ids = torch.randint(5, 50, (4, 24))
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[0, 1:4] = hidden[2, 5:6] = True
    batch = packed(Masked(ids, ids.masked_fill(~hidden, IGNORED)), 3)
    whole = model.loss(**batch)
    logits = model(ids)[hidden]
    torch.testing.assert_close(whole, torch.nn.functional.cross_entropy(logits, ids[hidden]), rtol=1e-5, atol=1e-5)
    for rows in ([[0], [1, 2, 3]], [[0, 1], [2], [3]]):
        parts = [model.loss(**{name: tensor[part] for name, tensor in batch.items()}) * len(part) / 4 for part in rows]
        torch.testing.assert_close(whole, sum(parts), rtol=1e-5, atol=1e-5)


def test_pairs_of_sentences_are_refused(make, tmp_path):
    rows = "".join(f"这家酒店{n},非常干净,{'ab'[n % 2]}\n" for n in range(40))
    (tmp_path / "pairs.csv").write_text("text,text_b,label\n" + rows, encoding="utf-8")
    with pytest.raises(InputError, match=r"task\.sentences: pairs of sentences are not read here"):
        make(sentences={"name": "files", "root": str(tmp_path / "pairs.csv")})


def test_training_learns(make):
    task = make({"width": 32}, epochs=2, steps_per_epoch=100, learning_rate=3e-3, batch_size=16)
    model, rungs = trained(task)
    assert rungs[1].facts["loss"] < rungs[0].facts["loss"] - 0.3
    before = next(c for c in task.controls() if c.name == "untrained").measure(0, "test")
    assert set(task.evaluate(model, "test")) == set(before)
    assert {"word_recovery", "tag_top1", "finetune_top1", "linear_top1"} <= set(before)


def test_recovered_words_are_counted_whole():
    """Of three hidden words in two texts one is right in every token; five tokens of seven are right."""

    class Stub(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = self
            self.cls = torch.nn.Identity()

        def encode(self, ids, pad=None):
            return torch.nn.functional.one_hot(ids, 30).float()

    truth = torch.tensor([[1, 10, 11, 12, 13, 14, 2], [1, 20, 21, 22, 23, 24, 2]])
    hidden = torch.tensor([[0, 1, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    index = torch.tensor([[-1, 0, 0, 1, 2, 2, -1], [-1, 0, 1, 1, 1, 2, -1]])
    shown = truth.clone()
    shown[0, 2], shown[1, 4] = 5, 5
    scores = recovery(Stub(), Masked(shown, truth.masked_fill(~hidden, IGNORED)), index)
    assert scores["word_recovery"] == pytest.approx(100 / 3)
    assert scores["token_recovery"] == pytest.approx(500 / 7)


def test_held_out_words_have_several_tokens_and_are_hidden_whole(task):
    masked, index = task.held_out["test"]
    hidden = masked.labels_BL != IGNORED
    assert hidden.any()
    assert (masked.ids_BL[hidden] == task.special.mask).all()
    for row in range(len(index)):
        for word in set(index[row][hidden[row]].tolist()):
            of_word = index[row] == word
            assert word >= 0
            assert of_word.sum() > 1
            assert hidden[row][of_word].all()


def test_a_model_goes_to_a_folder_of_transformers_and_comes_back(task, make, tmp_path):
    model, _ = trained(task)
    export_masked_lm(model.bert, task.data.tokenizer, tmp_path / "made")
    ids = task.example_input(3)
    model.eval()
    with torch.no_grad():
        theirs = BertForMaskedLM.from_pretrained(tmp_path / "made").eval()(input_ids=ids).logits
        assert torch.equal(theirs, model(ids))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    text = task.data.texts.train[0].text
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == list(task.data.tokenizer.codes([text])[0].ids)

    again = make({"pretrained": str(tmp_path / "made"), "vocabulary": None, "width": None})
    assert again.windows.vocabulary == len(task.data.tokenizer.vocabulary)
    built = again.space.build(again.space.reference).eval()
    with torch.no_grad():
        assert torch.equal(built(ids), model(ids))
    _, rungs = trained(again)
    assert len(rungs) == 2


def test_letters_keep_their_case_on_the_way_out(tmp_path):
    """The tokenizer of a cased BERT, in whose numbers there is a gap."""
    tokens = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"])}
    peer = BertTokenizer(vocab={**tokens, "A": 8, "##B": 9}, do_lower_case=False)
    peer.save_pretrained(tmp_path / "cased")
    bert = fresh_masked_lm(BertSizes(10, 4, 1, 1, 8, 8))
    export_masked_lm(bert, pretrained_tokenizer(str(tmp_path / "cased"), 8), tmp_path / "made")
    again = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert again("AB ab")["input_ids"] == [2, 8, 9, 5, 6, 3]
    again = pretrained_tokenizer(str(tmp_path / "made"), 8)
    assert again(["AB ab"]).tolist() == [[2, 8, 9, 5, 6, 3, 0, 0]]


def folder_of(task, path, layers=3):
    space = find_space("whole_word", "tiny", {**SIZES, "layers": layers, "segmenters": ["gold"]})
    seed_everything(3)
    model = space.build(space.reference)
    export_masked_lm(model.bert, task.data.tokenizer, path)
    return model


def test_depth_keeps_the_first_layers(task, make, tmp_path):
    whole = folder_of(task, tmp_path)
    less = load_masked_lm(str(tmp_path), 1)
    assert less.config.num_hidden_layers == 1
    kept = less.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in whole.bert.state_dict().items() if name in kept)
    with pytest.raises(InputError, match="has 3 layers, not 4"):
        load_masked_lm(str(tmp_path), 4)


def test_a_checkpoint_without_its_head_is_refused(task, tmp_path):
    model = folder_of(task, tmp_path / "whole")
    model.bert.bert.save_pretrained(tmp_path / "encoder")
    with pytest.raises(InputError, match="lacks the head for masked words") as caught:
        load_masked_lm(str(tmp_path / "encoder"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({}, {"sentence_length": 25}, "task.sentence_length: 25 is more than the 24 positions"),
        ({"segmenters": ["gold"]}, {"marked": "nothing"}, "nobody marked the words of files"),
        ({}, {"batch_size": 5000}, "a batch of 5000 windows of 24 needs 115000"),
        ({"masked": 0.9, "randomised": 0.2}, {}, "space.options.masked: 0.9 and randomised 0.2 are more than all"),
        ({"width": 15}, {}, "width: 15 cannot be divided among heads = 2"),
        ({"vocabulary": 20}, {}, "vocabulary: 20 is too small"),
        ({"segmenters": ["gold", "gold"]}, {}, "has one twice"),
        ({"pretrained": "/nowhere", "vocabulary": None, "width": None}, {}, "cannot load '/nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(make, files, sizes, options, message):
    if "marked" in options:
        options = {"corpus": {**files["corpus"], **options}}
    with pytest.raises(InputError, match=message) as caught:
        make(sizes, **options)
    assert "\n" not in str(caught.value)


def test_windows_too_short_for_a_word_of_several_tokens_are_refused(make):
    with pytest.raises(InputError, match=r"space\.options\.length: 15% of 8 tokens are less than any word"):
        make({"length": 8}, sentence_length=8)


def test_a_bert_is_read_as_one_whatever_its_folder_is_called(task, make, tmp_path):
    """The published chinese_roberta_wwm_ext: vocab.txt and a config.json that does not say its kind."""
    folder_of(task, tmp_path / "chinese_roberta_wwm_ext")
    path = tmp_path / "chinese_roberta_wwm_ext" / "config.json"
    for file in path.parent.glob("tokenizer*"):
        file.unlink()
    tokens = sorted(task.data.tokenizer.vocabulary.items(), key=lambda item: item[1])
    (path.parent / "vocab.txt").write_text("\n".join(token for token, _ in tokens) + "\n", encoding="utf-8")
    known = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("model_type", "architectures")}
    path.write_text(json.dumps(known))
    again = make({"pretrained": str(path.parent), "vocabulary": None, "width": None})
    text = task.data.texts.train[0].text
    assert list(again.data.tokenizer.codes([text])[0].ids) == list(task.data.tokenizer.codes([text])[0].ids)
    trained(again)


def test_special_tokens_that_a_text_spells_are_text(task, tmp_path):
    folder_of(task, tmp_path)
    ids = pretrained_tokenizer(str(tmp_path), 8).codes(["[MASK]语言[SEP]"])[0].ids
    assert not {task.special.mask, task.special.sep} & set(ids)


def test_chinese_that_nobody_marked_needs_a_segmenter_to_be_scored_by(make, tmp_path):
    lines = [f"{a}，{b}。" for a, b in itertools.permutations("使用语言模型预测天气", 2)]
    (tmp_path / "c.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match="no word of several tokens by pieces; use jieba"):
        make({"segmenters": ["pieces"]}, corpus={"corpus": "files", "files": [str(tmp_path / "c.txt")]})


def test_a_sentence_without_words_is_refused(make, files, tmp_path):
    (tmp_path / "s.tsv").write_text(
        "text\tlabel\n" + "\n".join("\u200b" * (n + 1) + f"\t{n % 2}" for n in range(40)), encoding="utf-8"
    )
    with pytest.raises(InputError, match="has no words; remove it"):
        make(sentences={"name": "files", "root": str(tmp_path / "s.tsv")})


@pytest.mark.parametrize("tag", ["validation", "test"])
def test_tags_that_training_does_not_know_are_refused_before_any_work(make, tmp_path, tag):
    """The probe would have nothing to be scored on, which came out after the training."""
    lines = [f"我们/n 使用/n 语言/n {n}/n" for n in range(100)]
    at = {"validation": range(80, 90), "test": range(90, 100)}[tag]
    lines = [line.replace("/n", "/x") if n in at else line for n, line in enumerate(lines)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    corpus = {"corpus": "files", "files": [str(tmp_path / "corpus.txt")], "marked": "words_and_tags"}
    with pytest.raises(InputError, match=f"of the {tag} part hold no word with a tag that training knows"):
        make(corpus=corpus)


def test_names_need_tags():
    space = find_space("whole_word", "english", SIZES)
    with pytest.raises(InputError, match="segmenter: pieces knows no names"):
        space.configuration({"masking_rate": 0.15, "unit": "entity", "segmenter": "pieces", "layers": 2})


def test_rates_that_mask_as_many_tokens_are_one():
    space = find_space("whole_word", "tiny", SIZES)
    rates = {
        space.configuration({**space.reference, "masking_rate": rate})["masking_rate"] for rate in (0.15, 0.155, 0.17)
    }
    assert rates == {0.15}
    assert space.configuration({**space.reference, "masking_rate": 0.2})["masking_rate"] == 0.2


def test_the_papers_sizes_are_those_of_chinese_bert():
    """12 layers of 768 and 21,128 tokens; 20 of 128 and 77 of 512 tokens are predicted at most."""
    space = find_space("whole_word", "paper")
    with torch.device("meta"):
        model = space.build(space.reference)
    assert sum(p.numel() for p in model.bert.bert.parameters()) == 101_677_056
    assert space.plan(space.reference).budget.of(512) == 77


def test_english_words_need_no_segmenter(tmp_path, make):
    texts = [f"unbelievable number{n} tokenization of embeddings number{n % 7}." for n in range(60)]
    (tmp_path / "e.txt").write_text("\n".join(texts), encoding="utf-8")
    corpus = {"corpus": "files", "files": [str(tmp_path / "e.txt")]}
    task = make({"segmenters": ["pieces"], "vocabulary": 120}, corpus=corpus)
    model, _ = trained(task)
    assert "tag_top1" not in task.evaluate(model, "test")
