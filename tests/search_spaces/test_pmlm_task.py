import itertools
import math

import pytest
import torch

from naslab.errors import InputError
from naslab.search_spaces import find_space
from naslab.search_spaces.common.modules.masked_lm import BertSizes
from naslab.search_spaces.common.objectives.fates import Fates
from naslab.search_spaces.common.objectives.masked_blocks import Masking
from naslab.search_spaces.common.scores.rouge import rouge_l
from naslab.search_spaces.data.text import SpecialIds, TextOptions
from naslab.search_spaces.data.text.pieces import PieceBatches, load_pieces
from naslab.search_spaces.pmlm.generation import Encoded, GenerationOptions, generation_loss, target_slots, write
from naslab.search_spaces.pmlm.model import Plan, PseudoMaskedLM
from naslab.search_spaces.pmlm.task import PretrainingOptions, PseudoMaskedPretraining
from naslab.search_spaces.splits import Splits

SPECIAL = SpecialIds()
SIZES = {"vocabulary": 300, "context": 24, "layers": 1, "width": 32, "head_width": 8}
BUDGET = {"epochs": 2, "steps_per_epoch": 6, "batch_size": 8, "data": {"max_characters": 60_000}}


def make(sizes=None, **options):
    space = find_space("pmlm", "tiny", {**SIZES, **(sizes or {})})
    chosen = PretrainingOptions.model_validate({**BUDGET, **options})
    return PseudoMaskedPretraining(space, chosen, torch.device("cpu"))


@pytest.fixture(scope="module")
def task():
    return make()


@pytest.fixture
def rows(tmp_path):
    """Sentences whose class is one of their words, and pairs whose target is the source's first words."""
    words = [f"w{letter}{other}" for letter in "abcdef" for other in "xyz"]
    sentences = [(" ".join(words[k % 18] for k in (i, i + i // 18, 5 * i)), i % 2) for i in range(120)]
    assert len(set(sentences)) == 120
    table = tmp_path / "labelled.csv"
    lines = [f"{'good' if label else 'bad'} {text},{label}" for text, label in sentences]
    table.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("source\ttarget\n" + "\n".join(f"{t}\t{t.split()[0]}" for t, _ in sentences), encoding="utf-8")
    return table, pairs


def test_it_learns(task):
    """More masked words are right after a few hundred steps than the most frequent token makes right."""
    longer = make(epochs=1, steps_per_epoch=250, learning_rate=3e-3)
    torch.manual_seed(0)
    model = longer.space.build(longer.space.reference)
    (rung,) = longer.train(model, 0)
    assert set(rung.facts) >= {"loss", "ae", "par", "steps", "tokens"}
    assert rung.facts["loss"] == pytest.approx(rung.facts["ae"] + rung.facts["par"], rel=1e-5)
    scores = longer.evaluate(model, "validation", full=False)
    assert scores["masked_loss"] < math.log(SIZES["vocabulary"]) - 0.5
    baseline = next(c for c in longer.controls() if c.name == "baseline").measure(0, "validation")
    assert scores["masked_accuracy"] > baseline["masked_accuracy"]


def test_scores_are_of_the_same_masks_for_every_configuration(task):
    seen = [[m.ids_BL for m in task._masked("validation", False)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    space = task.space
    for name in ("ae", "par"):
        torch.manual_seed(0)
        scores = task.evaluate(space.build(space.published[name]), "validation", full=False)
        assert all(math.isfinite(value) for value in scores.values())
        assert (scores["order_loss"] == scores["masked_loss"]) == (name == "ae")


def test_batches_and_masks_depend_on_seed_and_step_alone(task):
    model = task.space.build(task.space.reference)
    optimiser = torch.optim.SGD([{"params": model.parameters(), "base_lr": 1.0}], lr=1.0)
    first, again, other = (list(task._steps(model, optimiser, 0, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a["noise"], b["noise"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["noise"], other[0]["noise"])
    assert not torch.equal(first[0]["noise"], first[1]["noise"])


def test_windows_hold_every_token_once(task):
    batches = PieceBatches(4, 10, SPECIAL)
    tokens = torch.arange(5, 5 + 8 * 5 + 3)
    rows = torch.cat(batches.evaluation(tokens))
    assert rows.shape == (6, 10)
    assert rows[rows > 4].tolist() == tokens.tolist()
    assert (rows[:, 0] == SPECIAL.cls).all()
    assert (rows == SPECIAL.sep).sum(1).tolist() == [1] * 6
    assert rows[-1].tolist() == [SPECIAL.cls, 45, 46, 47, SPECIAL.sep, *[SPECIAL.pad] * 5]
    step = batches.batch(tokens, 0, 0)
    assert step.shape == (4, 10)
    assert (step[:, -1] == SPECIAL.sep).all()
    assert (step[:, 1:-1].diff(dim=1) == 1).all()


def test_parts_are_tokens_of_the_text(task):
    data = load_pieces(TextOptions(max_characters=20_000), 300, SPECIAL, 16)
    assert min(len(part) for part in (data.train, data.validation, data.test)) > 0
    assert data.train.min() >= SPECIAL.unk
    assert data.train.max() < 300


def test_classification_learns_and_is_repeatable(rows):
    table, _ = rows
    chosen = {"data": {"name": "files", "root": str(table)}, "tokens": 16, "epochs": 12, "learning_rate": 3e-3}
    task = make(downstream="classification", classification=chosen)
    torch.manual_seed(0)
    model = task.space.build(task.space.reference)
    before = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    scores = task.evaluate(model, "test")
    assert torch.equal(state, torch.get_rng_state())
    assert scores == task.evaluate(model, "test")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert task.metric == "classification_top1"
    assert scores[task.metric] >= 90
    assert task.controls()[0].measure(0, "test")["classification_top1"] == pytest.approx(50, abs=10)


def test_generation_learns_to_write(rows):
    _, pairs = rows
    chosen = {
        "data": {"name": "files", "root": str(pairs)}, "source_tokens": 24, "target_tokens": 6, "epochs": 25,
        "learning_rate": 3e-3, "batch_size": 16, "label_smoothing": 0.0,
    }  # fmt: skip
    task = make(downstream="generation", generation=chosen)
    torch.manual_seed(0)
    scores = task.evaluate(task.space.build(task.space.reference), "validation")
    assert task.metric == "rouge_l"
    assert 0 <= task.controls()[0].measure(0, "validation")["rouge_l"] <= 100
    assert scores["rouge_l"] > 50  # a random word of those shares about a fifth of its pieces


def writer():
    torch.manual_seed(0)
    sizes = BertSizes(vocabulary=40, width=16, layers=2, heads=2, hidden=64, positions=512)
    return PseudoMaskedLM(Plan(sizes, Masking())).double().eval()


def test_what_is_written_is_the_most_likely_token_at_each_step():
    """Written step by step it is what one teacher-forced pass over it predicts, for sources of several lengths."""
    model = writer()
    sources = torch.randint(5, 40, (3, 8), generator=torch.Generator().manual_seed(1))
    sources[1, 5:] = SPECIAL.pad
    written = write(model, sources, 6)
    _, states = model.states(sources, target_slots(sources, written, SPECIAL), slot_type=1)
    predicted = model.logits(states).argmax(-1)
    real = (written != SPECIAL.pad).cumprod(1).bool()
    assert real.any()
    assert torch.equal(predicted[real], written[real])
    alone = write(model, sources[1:2, :5], 6)
    assert torch.equal(alone[0], written[1, : alone.shape[1]])


def test_a_target_without_noise_is_the_plain_likelihood():
    model = writer()
    sources = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    targets = torch.randint(5, 40, (2, 4), generator=torch.Generator().manual_seed(2))
    targets[1, 2:] = SPECIAL.pad
    options = GenerationOptions(label_smoothing=0.0, random_share=0.0, kept_share=0.0, target_noise=0.0)
    loss = generation_loss(model, Encoded(sources, targets), torch.rand(2, 4, 3), Fates(1.0, 0.0), options)
    nats = 0.0
    for row, number in ((0, 4), (1, 2)):
        for step in range(number):
            slots = target_slots(sources[row : row + 1], targets[row : row + 1, : step + 1], SPECIAL)
            _, states = model.states(sources[row : row + 1], slots, slot_type=1)
            nats -= model.logits(states)[0, -1].log_softmax(-1)[targets[row, step]].item()
    assert loss.item() == pytest.approx(nats / 6, rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ("abcd", "abcd", 1.0),
        ("abcd", "xyz", 0.0),
        ("", "ab", 0.0),
        ("police killed the gunman".split(), "police kill the gunman".split(), 0.75),
    ],
)
def test_rouge_l(a, b, wanted):
    """The last is the example of Lin 2004."""
    assert rouge_l(a, b) == wanted


def test_rouge_l_is_that_of_all_subsequences():
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        a, b = (torch.randint(3, (n,), generator=generator).tolist() for n in (6, 7))
        own = {s for k in range(7) for s in itertools.combinations(a, k)}
        longest = max(len(s) for k in range(8) for s in itertools.combinations(b, k) if s in own)
        assert rouge_l(a, b) == pytest.approx(2 * longest / 13)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 4096}, "task.data"),
        (
            {"tokenizer": "/no/such/folder"},
            "task.tokenizer: cannot load the tokenizer of '/no/such/folder': no such folder",
        ),
        ({"downstream": "classification", "classification": {"tokens": 600}}, "positions"),
        ({"downstream": "generation", "generation": {"source_tokens": 500, "target_tokens": 24}}, "positions"),
        ({"downstream": "generation", "generation": {"random_share": 0.8, "kept_share": 0.4}}, "more than 1"),
        ({"downstream": "classification", "classification": {"data": {"per_class": 100_000}}}, "per_class"),
    ],
)
def test_bad_input_is_one_line(options, words):
    with pytest.raises(InputError) as error:
        make(**options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_without_words_is_refused(tmp_path):
    """A held-out part of characters that no token is for: there is nothing to score on."""
    words = "\n".join(f"the quick brown fox {i} jumps over lazy dogs" for i in range(400))
    (tmp_path / "text.txt").write_text(words + "\n" + "\u200b" * 9000, encoding="utf-8")
    with pytest.raises(InputError, match=r"task\.data: the (validation|test) part of corpus files has no words"):
        make(data={"corpus": "files", "files": (str(tmp_path / "text.txt"),)})


@pytest.mark.parametrize("downstream", ["classification", "generation"])
def test_a_text_without_words_is_refused_by_its_option(downstream, tmp_path):
    table = tmp_path / "rows.csv"
    head, last = ("text,label", "\u200b,0") if downstream == "classification" else ("source,target", "a,\u200b")
    table.write_text("\n".join([head, *(f"a{i},{i % 2}" for i in range(40)), last]), encoding="utf-8")
    with pytest.raises(InputError, match=rf"task\.{downstream}\.data: text .* has no words; remove it"):
        make(downstream=downstream, **{downstream: {"data": {"name": "files", "root": str(table)}}})


def test_a_vocabulary_that_the_text_does_not_fill_is_told():
    with pytest.warns(UserWarning, match=r"space\.options\.vocabulary: 9000, but the text gives \d+ tokens"):
        make({"vocabulary": 9000})


def test_pairs_of_sentences_are_refused(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("text,text_b,label\n" + "".join(f"a{i},b,{i % 2}\n" for i in range(40)), encoding="utf-8")
    with pytest.raises(InputError, match="pairs of sentences"):
        make(downstream="classification", classification={"data": {"name": "files", "root": str(table)}})


def test_parts_of_downstream_tasks_are_apart(rows):
    table, _ = rows
    task = make(downstream="classification", classification={"data": {"name": "files", "root": str(table)}})
    assert isinstance(task.downstream.ids, Splits)
    assert sum(len(task.downstream.ids.of(part)) for part in ("train", "validation", "test")) == 120
