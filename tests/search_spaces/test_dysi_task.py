"""Pairs as tokens, what is written and how it is scored, and one line for what a user must mend."""

import sys

import pytest
import sacrebleu
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from naslab.errors import InputError
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.scores.translation import translation_scores
from naslab.search_spaces.data.text import IGNORED, Pairs, ParallelOptions, load_parallel
from naslab.search_spaces.data.text.pair_tokenizers import BytePairs, Ids, NamedPairs
from naslab.search_spaces.dysi.pairs import token_pairs
from naslab.search_spaces.dysi.scoring import forced_scores, prefix_chrf, written
from naslab.search_spaces.find import make_task

SIZES = {"source_tokens": 8, "target_tokens": 10, "vocabulary": 270, "layers": 1, "width": 16, "hidden": 24}
CPU = torch.device("cpu")
PAIRS = Pairs([f"th {n} rd" for n in range(40)], [f"the {n} red" for n in range(40)])


def table(folder, pairs=PAIRS):
    lines = ["source\ttarget", *(f"{a}\t{b}" for a, b in zip(pairs.sources, pairs.targets, strict=True))]
    (folder / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    return {"name": "files", "root": str(folder / "pairs.tsv")}


def made(folder, sizes=None, pairs=PAIRS, **options):
    space = find_space("dysi", "tiny", {**SIZES, **(sizes or {})})
    given = {"data": table(folder, pairs), "epochs": 1, "batch_size": 8, "prefix_tokens": 3, **options}
    return space, make_task(space, given, CPU)


@pytest.mark.parametrize("form", ["encoder_decoder", "decoder"])
def test_a_batch_is_the_pairs(form):
    options = find_space("dysi", "tiny", {**SIZES, "form": form}).options
    tokenizer = BytePairs(PAIRS, 270)
    pairs = token_pairs(PAIRS, tokenizer, options)
    batch = pairs.batch([3, 20], torch.Generator().manual_seed(0), 0.5)
    for row, index in enumerate((3, 20)):
        source = [token for token in batch["source"][row].tolist() if token != tokenizer.ids.pad]
        assert tokenizer.decode([source]) == [PAIRS.sources[index]]
        targets = [token for token in batch["targets"][row].tolist() if token != IGNORED]
        assert targets[-1] == tokenizer.ids.end
        assert tokenizer.decode([targets[:-1]]) == [PAIRS.targets[index]]
        assert batch["decoder_tokens"][row, : len(targets)].tolist() == [tokenizer.ids.begin, *targets[:-1]]
    assert (batch["source"][:, -1] != tokenizer.ids.pad).all() == (form == "decoder")
    assert batch["weight"].sum().item() == pytest.approx(2)
    assert torch.equal(batch["weight"] > 0, batch["targets"] != IGNORED)


def test_a_source_has_the_special_tokens_of_its_network_around_it(tmp_path):
    """Pre-trained encoders know no text without them; a long one is cut between them. A target has its own."""
    codes = BytePairs(PAIRS, 270).codes
    codes.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=codes, pad_token="<pad>").save_pretrained(tmp_path)
    named, options = NamedPairs(str(tmp_path), Ids(0, 1, 2), 270), find_space("dysi", "tiny", SIZES).options
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for form in ("encoder_decoder", "decoder"):
        pairs = token_pairs(Pairs(["th 1", "x" * 50], ["b", "b"]), named, options.model_copy(update={"form": form}))
        assert pairs.sources[0] == theirs("th 1")["input_ids"]
        assert pairs.sources[1] == theirs("x" * 50, truncation=True, max_length=8)["input_ids"]
        assert pairs.targets[0] == [*theirs("b", add_special_tokens=False)["input_ids"], 2]
    with pytest.raises(InputError, match="source_tokens: 2 leaves no room beside the 2 special tokens"):
        token_pairs(PAIRS, named, options.model_copy(update={"source_tokens": 2}))


def test_an_end_that_pads_is_learned():
    """GPT-2 has no padding token; its end stands for it."""
    options, tokenizer = find_space("dysi", "tiny", {**SIZES, "form": "decoder"}).options, BytePairs(PAIRS, 270)
    tokenizer.ids = Ids(2, 1, 2)
    batch = token_pairs(PAIRS, tokenizer, options).batch([0, 20], torch.Generator().manual_seed(0))
    assert batch["targets"].eq(2).sum(1).tolist() == [1, 1]
    assert (batch["weight"][batch["targets"] == 2] > 0).all()


def test_a_long_target_is_cut_and_has_no_end():
    options = find_space("dysi", "tiny", SIZES).options
    tokenizer = BytePairs(Pairs(["a"], ["b"]), 270)
    pairs = token_pairs(Pairs(["x" * 50], ["y" * 50]), tokenizer, options)
    assert [len(pairs.sources[0]), len(pairs.targets[0])] == [8, 10]
    assert tokenizer.ids.end not in pairs.targets[0]


def test_scores_are_sacrebleu_s():
    written_, references = ["the red cat", ""], ["the red cat sat", "no"]
    found = translation_scores(written_, references)
    assert found["chrf"] == sacrebleu.CHRF().corpus_score(written_, [references]).score
    assert found["bleu"] == sacrebleu.BLEU(force=True).corpus_score(written_, [references]).score


def test_every_pair_counts_and_a_perfect_text_has_full_marks():
    """References are one list of all pairs: with one list a pair sacrebleu would score the first alone."""
    texts = [f"sentence number {n} of these" for n in range(5)]
    assert translation_scores(texts, texts)["chrf"] == pytest.approx(100)
    assert translation_scores([texts[0], *[""] * 4], texts)["chrf"] < 50
    assert translation_scores([*[""] * 4, texts[4]], texts)["bleu"] < 50


def test_a_trained_model_writes_what_it_learned_and_a_corrupted_prefix_hurts(tmp_path):
    """On two sentences that it can learn by heart."""
    pairs = Pairs(["abcd", "efgh"] * 20, ["one two", "six ten"] * 20)
    with pytest.warns(UserWarning, match="stand in training"):
        space, task = made(tmp_path, {"width": 32, "dropout": 0.0}, pairs, steps_per_epoch=60, learning_rate=1e-2)
    seed_everything(0)
    model = space.build(space.reference)
    (rung,) = task.train(model, 0)
    assert rung.facts["accuracy"] > 0.5
    assert rung.facts["replaced"] > 0
    scores = task.evaluate(model, "test")
    assert scores["chrf"] == pytest.approx(100)
    assert scores["token_accuracy"] == pytest.approx(100)
    assert scores["decay"] == scores["prefix_chrf"] - scores["corrupted_chrf"]


def test_the_scores_of_a_prefix_are_of_what_comes_after_it(tmp_path):
    _, task = made(tmp_path)
    pairs, decoded = task.pairs["test"], []

    class Echo(torch.nn.Linear):
        """Writes the very ending, whatever it is given."""

        def generate(self, source, prefix, most, beams):
            decoded.append(prefix)
            rows = [list(target)[prefix.shape[1] :] for target in pairs.targets]
            return torch.tensor([row + [0] * (most - len(row)) for row in rows])

    rows = pairs.longer_than(3)
    assert rows == list(range(len(pairs)))
    assert prefix_chrf(Echo(1, 1), pairs, rows, task.tokenizer, 64, 3, 0.0) == pytest.approx(100)
    assert decoded[0].tolist() == [list(target)[:3] for target in pairs.targets]
    prefix_chrf(Echo(1, 1), pairs, rows, task.tokenizer, 64, 3, 1.0)
    every = {token for target in pairs.targets for token in target}
    assert set(decoded[1].flatten().tolist()) <= every - {pairs.ids.end}
    assert decoded[1].tolist() != decoded[0].tolist()


@pytest.mark.parametrize("form", ["encoder_decoder", "decoder"])
def test_scores_do_not_depend_on_the_batch(form, tmp_path):
    space, task = made(tmp_path, {"form": form})
    seed_everything(1)
    model, pairs = space.build(space.reference).eval(), task.pairs["validation"]
    texts = [written(model, pairs, range(len(pairs)), task.tokenizer, size) for size in (1, 3, 64)]
    assert texts[0] == texts[1] == texts[2]
    first, second = (forced_scores(model, pairs, range(len(pairs)), size) for size in (1, 64))
    assert first == pytest.approx(second, rel=1e-4)


@pytest.mark.parametrize("form", ["encoder_decoder", "decoder"])
def test_a_network_from_a_folder_brings_its_tokenizer(form, tmp_path):
    space, task = made(tmp_path, {"form": form})
    name = tmp_path / "network"
    space.build(space.reference).network.save_pretrained(name)
    options = {"form": form, "pretrained": str(name), "source_tokens": 8, "target_tokens": 10}
    again = find_space("dysi", None, options)
    with pytest.raises(InputError, match=r"space.options.pretrained: cannot load the tokenizer of"):
        make_task(again, {"data": table(tmp_path), "epochs": 1, "batch_size": 8}, CPU)
    PreTrainedTokenizerFast(tokenizer_object=task.tokenizer.codes, pad_token="<pad>").save_pretrained(name)
    theirs = make_task(again, {"data": table(tmp_path), "epochs": 1, "batch_size": 8, "prefix_tokens": 3}, CPU)
    assert theirs.pairs["test"].targets == task.pairs["test"].targets
    model = again.build(again.reference)
    assert task.evaluate(model, "test") == theirs.evaluate(model, "test")
    (rung,) = theirs.train(model, 0)
    assert rung.facts["loss"] > 0
    more = PreTrainedTokenizerFast(tokenizer_object=task.tokenizer.codes, pad_token="<pad>")
    more.add_tokens([f"extra{n}" for n in range(20)])
    more.save_pretrained(name)
    with pytest.raises(InputError, match="tokens, its network 270"):
        make_task(again, {"data": table(tmp_path), "epochs": 1, "batch_size": 8}, CPU)


def test_a_text_that_spells_the_end_goes_on_behind_it(tmp_path):
    """The end of a pre-trained network's target is put in by number."""
    task = made(tmp_path)[1]
    PreTrainedTokenizerFast(tokenizer_object=task.tokenizer.codes, eos_token="</s>").save_pretrained(tmp_path)
    named = NamedPairs(str(tmp_path), task.tokenizer.ids, 270)
    for target in (False, True):
        (row,) = named.encode(["th</s> red"], target)
        assert task.tokenizer.ids.end not in row
        assert named.decode([row]) == ["th</s> red"]


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Roberta", {"is_decoder": True, "max_position_embeddings": 42}),  # counts its positions from 2
        ("Mistral", {"sliding_window": 4}),  # attends to less than the mask shows
        ("Bloom", {"n_layer": 1, "n_head": 2}),  # takes no mask of four dimensions
    ],
)
def test_a_network_that_would_answer_otherwise_is_refused(kind, sizes, tmp_path):
    common = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    common |= {"intermediate_size": 24, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**common, **sizes)
    seed_everything(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    codes = BytePairs(PAIRS, 270).codes
    PreTrainedTokenizerFast(tokenizer_object=codes, pad_token="<pad>").save_pretrained(tmp_path)
    sizes = {"source_tokens": 8, "target_tokens": 10}
    space = find_space("dysi", None, {"form": "decoder", "pretrained": str(tmp_path), **sizes})
    with pytest.raises(InputError, match=f"a {kind.lower()}, cannot be used") as error:
        make_task(space, {"data": table(tmp_path), "epochs": 1, "batch_size": 8}, CPU)
    assert "\n" not in str(error.value)


def test_generation_is_greedy_whatever_a_checkpoint_asks_for(tmp_path):
    space, task = made(tmp_path)
    seed_everything(1)
    model, pairs = space.build(space.reference).eval(), task.pairs["validation"]
    plain = written(model, pairs, range(len(pairs)), task.tokenizer, 64)
    own = {"min_length": 9, "no_repeat_ngram_size": 1, "forced_bos_token_id": 7, "num_beams": 3, "max_length": 4}
    model.network.generation_config.update(**own)
    assert written(model, pairs, range(len(pairs)), task.tokenizer, 64) == plain
    assert model.network.generation_config.forced_bos_token_id == 7


def test_fewer_pairs_are_of_the_same_data():
    """Naming an option of the data leaves the task's own choice of data as it is."""
    options = find_space("dysi", "tiny", SIZES).Task.Options
    for given, meant in (({"pairs": 50}, {"name": "vowels", "pairs": 50}), ({"name": "docstrings"},) * 2):
        assert options.model_validate({"epochs": 1, "data": given}).data == ParallelOptions(**meant)


def test_vowels_are_all_that_is_missing():
    data = load_parallel(ParallelOptions(name="vowels", pairs=50))
    for part in (data.train, data.validation, data.test):
        for source, target in zip(part.sources, part.targets, strict=True):
            assert source == "".join(letter for letter in target if letter not in "aeiou")
    whole = [target for part in (data.train, data.validation, data.test) for target in part.targets]
    assert len(set(whole)) == len(whole) == 50


def test_sacrebleu_is_asked_for_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(InputError, match=r"pip install 'naslab\[translation\]'"):
        made(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 41}, "task.batch_size: 41 is more than the 33 training pairs"),
        ({"corruption": 0.0}, "task.corruption"),
        ({"prefix_tokens": 10**9}, "task.prefix_tokens: 1000000000 is not less than space.options.target_tokens"),
        ({"metric": "rouge"}, "task.metric"),
        ({"beams": 9_999_999}, "task.beams: input should be less than or equal to 100"),
        ({"data": {"name": "files", "root": "/nowhere.tsv"}}, "nowhere.tsv"),
        ({"data": {"name": "files"}}, "task.data.root: missing"),
    ],
)
def test_bad_input_is_one_line(options, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        made(tmp_path, **options)
    assert "\n" not in str(error.value)


def test_a_text_without_words_is_named():
    options = find_space("dysi", "tiny", SIZES).options

    class Wordless:
        ids, around = BytePairs(PAIRS, 270).ids, ((), ())

        def encode(self, texts, target):
            return [[5] if text != "?" else [] for text in texts]

    with pytest.raises(InputError, match="the source of pair 2 has no word that the tokenizer knows"):
        token_pairs(Pairs(["a", "?"], ["b", "c"]), Wordless(), options)
