"""The task of LM-BFF: training, search, data and bad input."""

import csv
import re

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, fake_cuda
from lmbff_small import BRIEF, built, infiller, made, saved, write_rows

from naslab.errors import InputError
from naslab.runs.dry_run import here_or_not
from naslab.runs.facts import check_here
from naslab.runs.study import parse_study
from naslab.search_spaces import TrainingDiverged, find_space, seed_everything
from naslab.search_spaces.common.objectives.hidden_places import hidden_places
from naslab.search_spaces.common.scores.label_words import search_mappings
from naslab.search_spaces.common.training import adaptation
from naslab.search_spaces.data.text import IGNORED
from naslab.search_spaces.lmbff import search
from naslab.search_spaces.lmbff import task as tuning
from naslab.search_spaces.lmbff.generate import Filling, _grow, generate_templates


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv")


def test_a_template_longer_than_the_row(rows):
    with pytest.raises(InputError, match=r"space.options.length: too short for template"):
        made(rows, {"length": 8, "templates": ["*cls**sent_0*_" + "it_was_" * 20 + "*mask**sep+*"]})


def test_demonstrations_that_do_not_fit(rows):
    """Each study has the reference, and a control that learns in context: both show an example of each class."""
    longer = "*cls**sent_0*_It_was_so_very" + "_so" * 12 + "*mask*.*sep+*"
    shorter = "*cls**sent_0*_It_was*mask*.*sep+*"
    with pytest.raises(InputError, match=r"space.options.length: too short for template"):
        made(rows, {"length": 14})
    with pytest.raises(InputError, match=r"space.options.length: too short for template"):
        made(rows, {"templates": [longer]})
    space, task = made(rows, {"templates": [shorter, longer]})
    task.evaluate(built(space), "validation")
    without = {"demonstrations": "none", "template": longer}
    task.evaluate(built(space, **without), "validation")
    task.check(space.configuration({**space.published["prompt"], **without}))
    with pytest.raises(InputError, match=r"space.options.length: too short for template"):
        task.check(space.configuration({**space.reference, "template": longer}))


def test_the_split_of_a_model_is_its_seeds_and_the_best_of_its_rungs_is_kept(rows):
    space, task = made(rows, epochs=4, steps_per_epoch=8)
    model = built(space, learning_rate=3e-3)
    scores = [task.evaluate(model, "validation")["accuracy"] for _ in task.train(model, 21)]
    assert model.kept.split == 21
    assert task.evaluate(model, "validation")["accuracy"] == max(scores) == scores[-1]
    assert task.prompter(model).data.train.texts == task.split(16, 21).train.texts


def test_an_adaptation_that_diverges_says_so(rows):
    text = {"corpus": "files", "files": [str(rows)]}
    learned = {"text": text, "steps": 6, "batch_size": 4, "length": 16, "learning_rate": 10}
    space, task = made(rows, adaptation=learned)
    model = built(space)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match=r"lower task\.adaptation\.learning_rate"):
        next(task.train(model, 13))


@pytest.mark.parametrize("method", ["prompt", "head"])
def test_both_methods_learn_what_one_word_tells(method, rows):
    space, task = made(rows, epochs=2, steps_per_epoch=40, batch_size=8)
    chosen = space.published["prompt" if method == "prompt" else "standard"]
    seed_everything(0)
    model = space.build(space.configuration({**chosen, "learning_rate": 3e-3}))
    list(task.train(model, 13))
    assert task.evaluate(model, "test")["accuracy"] > 80


@pytest.mark.parametrize("neighbours", [None, 4])
def test_searched_words_are_kept_in_the_model_and_tell_the_classes_apart(neighbours, rows):
    space, task = made(rows, {"searched_words": 5, "likely_words": 8, "neighbours": neighbours})
    chosen = {**space.published["prompt"], "label_words": "searched", "words_rank": 0}
    seed_everything(0)
    model = space.build(space.configuration(chosen))
    before = task.evaluate(model, "validation")
    list(task.train(model, 13))
    first = model.kept.words
    assert len(set(first)) == 2
    assert task.prompter(model).words == first
    assert before.keys() == task.evaluate(model, "validation").keys()
    last = space.build(space.configuration({**chosen, "words_rank": 4}))
    list(task.train(last, 13))
    assert last.kept.words != first


def test_adaptation_learns_and_is_named(rows, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(row["text"] for row in csv.DictReader(rows.open())))
    adaptation = {"text": {"corpus": "files", "files": [str(text)]}, "steps": 30, "batch_size": 8, "length": 16}
    space, task = made(rows, adaptation=adaptation)
    model = built(space)
    rung = next(iter(task.train(model, 13)))
    assert rung.facts["adaptation_tokens"] == 30 * 8 * 16
    untouched = built(space)
    frozen = dict(untouched.named_parameters())
    assert all((frozen[name] != p).any() for name, p in model.named_parameters() if "embeddings.word" in name)


def test_the_loss_of_the_adaptation_is_that_of_the_hidden_words(rows, monkeypatch):
    """On a GPU it asks for no number: choosing by a mask would."""
    network = built(made(rows)[0]).language_model.eval()
    ids = torch.randint(5, 200, (3, 12))
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[0, 1:4] = hidden[1, 2:3] = True
    wanted = torch.nn.functional.cross_entropy(network(ids).logits[hidden], ids[hidden])
    batch = (ids, *hidden_places(ids.masked_fill(~hidden, IGNORED)))
    torch.testing.assert_close(adaptation.masked_loss(network, *batch), wanted)
    with fake_cuda(monkeypatch) as crossings:
        there, sent = network.to(CUDA), [part.to(CUDA) for part in batch]
        crossings.watching = True
        assert adaptation.masked_loss(there, *sent).device == CUDA
    assert crossings.found == []


class Killed(BaseException):
    """As a signal: nothing catches it."""


@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [(adaptation, "masked_loss", 2), (search, "search_mappings", 0), (tuning, "_loss", 0), (tuning, "_loss", 3)],
    ids=["adaptation", "search", "first epoch", "second epoch"],
)
def test_a_training_killed_at_any_stage_ends_as_one_that_ran_through(module, name, calls, rows, tmp_path, monkeypatch):
    text = {"corpus": "files", "files": [str(rows)]}
    learned = {"text": text, "steps": 4, "batch_size": 4, "length": 16}
    space, task = made(rows, {"searched_words": 3, "likely_words": 8}, adaptation=learned)
    chosen = space.configuration({**space.published["prompt"], "label_words": "searched", "words_rank": 1})

    def run(folder):
        seed_everything(0)
        model = space.build(chosen)
        list(task.train(model, 13, folder))
        return model.state_dict()

    unbroken, original = run(tmp_path / "unbroken"), getattr(module, name)
    left = iter(range(calls))

    def dies(*given):
        if next(left, None) is None:
            raise Killed
        return original(*given)

    with monkeypatch.context() as killing:
        killing.setattr(module, name, dies)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    torch.rand(3)  # a new process's generator stands elsewhere
    again = run(tmp_path / "killed")
    assert all(torch.equal(again[key], value) for key, value in unbroken.items())


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        ({"label_words": [["terrible", "okay", "great"]]}, {}, "3 words for 2 classes"),
        ({"label_words": [["great", "great"]]}, {}, "a word stands for two classes"),
        ({"label_words": [["terrible", "great"], ["bad"]]}, {}, "each set needs one a class"),
        ({"label_words": [["very bad", "great"]]}, {}, "'very bad': is 2 tokens"),
        ({"templates": ["*cls**sent_0**mask**sent_1**sep+*"]}, {}, "but the data has no pairs"),
        ({"searched_templates": 4}, {}, "space.options.infiller: missing"),
        ({"shots": 50}, {}, "shots: 50 for training and as many for validation are more than the 90 sentences of"),
        (
            {},
            {"adaptation": {"steps": 1, "length": 600}},
            "task.adaptation.length: 600 tokens are more than the 512",
        ),
        ({"length": 9_999_999}, {}, "space.options.length: input should be less than or equal to 16384"),
        (
            {"searched_templates": 2, "infiller": "/nowhere"},
            {},
            "space.options.infiller: cannot load the tokenizer of",
        ),
        (
            {},
            {"adaptation": {"steps": 1, "text": {"corpus": "files", "files": ["/nowhere"]}}},
            "/nowhere: cannot be read",
        ),
        (
            {},
            {"adaptation": {"steps": 1, "text": {"corpus": "files", "files": [__file__]}, "batch_size": 9999}},
            "task.adaptation.text: has ",
        ),
        ({}, {"batch_size": 9_999_999}, "task.batch_size: input should be less than or equal to 4096"),
        ({}, {"data": {"test": 200}}, "task.data.test: 200 leaves none of the 200 sentences to learn from"),
    ],
)
def test_bad_input_in_one_line(options, task, message, rows):
    with pytest.raises(InputError) as caught:
        made(rows, options, **task)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_embedder(rows, tmp_path):
    with pytest.raises(InputError, match=r"task.embedder: cannot load"):
        made(rows, embedder=str(tmp_path / "none"))


def test_what_is_no_sentence_encoder_is_refused_before_any_time_is_spent(rows, tmp_path):
    name = saved(tmp_path, *infiller())
    with pytest.raises(InputError, match=r"task.embedder: .*, a t5, cannot be used") as caught:
        made(rows, embedder=name)
    assert "\n" not in str(caught.value)


def test_more_shots_than_examples(rows):
    space, task = made(rows)
    with pytest.raises(InputError, match="shots: 64 for training and as many for validation are more than the 90"):
        next(iter(task.train(built(space, shots=64), 13)))


def test_points_of_a_study_that_the_data_does_not_bear_are_refused_before_it_runs(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = {
        "schema": "naslab.study/1", "name": "few", "seeds": [13],
        "space": {"name": "lmbff", "preset": "tiny", "options": {"vocabulary": 200}},
        "task": {"data": {"name": "files", "root": str(rows)}, **BRIEF},
    }  # fmt: skip
    grid = {"name": "many", "engine": "grid", "vary": {"shots": [8, 64]}}
    sampled = {"name": "many", "engine": "optuna", "sampler": "random", "trials": 2, "enqueue": [{"shots": 64}]}
    for arm in (grid, sampled):
        study = parse_study({**document, "arms": [arm]}, "the study")
        for check in (check_here, here_or_not):
            with pytest.raises(InputError, match=r"arm many: shots: 64 for training .* more than the 90 sentences"):
                check(study)
    study = parse_study({**document, "arms": [{**grid, "vary": {"shots": [8, 32]}}]}, "the study")
    assert here_or_not(study)[1] is None


def test_a_text_without_words_and_a_class_without_texts(tmp_path):
    path = tmp_path / "rows.csv"
    good = [f"film {i},{'negative' if i % 2 else 'positive'}" for i in range(80)]
    path.write_text("\n".join(["text,label", *good, "\u200b,negative"]))
    with pytest.raises(InputError, match="has no words"):
        made(path)
    path.write_text("\n".join(["text,label", *good, "okay,middling"]))
    with pytest.raises(InputError, match=r"more than the 0 sentences of class middling"):
        made(path, {"label_words": [["okay", "bad", "good"]]}, data={"test": 30})
    path.write_text("\n".join(["text,label", *good, "film,"]))
    with pytest.raises(InputError, match="text 81 has no label"):
        made(path)
    path.write_text("\n".join(["text,label", *(row for row in good if "negative" in row)]))
    with pytest.raises(InputError, match="has 1 classes"):
        made(path)


def test_the_vocabulary_that_is_asked_for_is_enough(tmp_path):
    path, letters = tmp_path / "rows.csv", "abcdefghijklmnopqrstuvwxyz0123456789"
    path.write_text("\n".join(["text,label", *(f"{letters} {i},{'np'[i % 2]}" for i in range(80))]))
    with pytest.raises(
        InputError, match=r"space.options.vocabulary: 64 is too small for text of \d+ letters; use"
    ) as caught:
        made(path, {"vocabulary": 64})
    least = int(re.search(r"use (\d+) or more", str(caught.value))[1])
    made(path, {"vocabulary": least})
    with pytest.raises(InputError, match="too small"):
        made(path, {"vocabulary": least - 1})


def test_every_proposal_can_be_built(rows):
    for shots in (2, 4, 16):
        space = find_space("lmbff", "tiny", {"shots": shots})
        assert all(space.random(np.random.default_rng(seed))["shots"] > 1 for seed in range(30))


def test_pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"is it {i}?,it is {i % 7}.,{'no' if i % 2 else 'yes'}" for i in range(120)]
    path.write_text("\n".join(["text,text_b,label", *rows]))
    options = {"templates": ["*cls**sent-_0*?*mask*,*+sentl_1**sep+*"], "label_words": [["no", "yes"]]}
    pair_space, task = made(path, options)
    for chosen in (pair_space.reference, pair_space.published["standard"]):
        model = pair_space.build(chosen)
        list(task.train(model, 13))
        assert 0 <= task.evaluate(model, "test")["accuracy"] <= 100
    with pytest.raises(InputError, match="for the data has pairs"):
        made(path)
    for second, message in (("", "text_b 121 is empty"), ("\u200b", "has no words")):
        path.write_text("\n".join(["text,text_b,label", *rows, f"is it?,{second},no"]))
        with pytest.raises(InputError, match=message):
            made(path, options)


def test_a_beam_finds_what_trying_all_finds():
    """With one word of each class far ahead, both must rank it first."""
    rng = np.random.RandomState(0)
    labels = np.arange(30) % 3
    logits = rng.randn(30, 12).astype(np.float32)
    for label, word in enumerate((3, 7, 11)):
        logits[labels == label, word] += 20
    words = [np.arange(12)] * 3
    assert search_mappings(logits, labels, words, 1)[0].words == (3, 7, 11)
    assert search_mappings(logits, labels, words, 1, most=10)[0].words == (3, 7, 11)


@pytest.mark.parametrize("step", [1, -1])
def test_a_gap_ends_where_the_next_is_marked_whichever_way_marks_are_numbered(step):
    """T5 numbers them downwards, ByT5 upwards."""
    numbers = {".": 0, "</s>": 1, **{f"<extra_id_{gap}>": 6 + step * gap for gap in range(3)}}

    class Marks:
        unk_token_id, eos_token_id = 2, 1

        def convert_tokens_to_ids(self, tokens):
            return [numbers.get(token, 2) for token in tokens]

    for filled in (0, 1):
        grown = list(_grow(Filling((9,), 0.0, filled), torch.zeros(10), 7, Marks()))
        ends = {part.tokens[-1] for part in grown if part.filled == filled + 1}
        assert ends == {1, 6 + step * (filled + 1)}


def test_generated_templates_can_be_used(rows, tmp_path):
    model, tokenizer = infiller()
    for template in generate_templates(model, tokenizer, [(("a film",), "great"), (("a plot",), "bad")], 4):
        assert template.sentences == 1
    folder = saved(tmp_path, model, tokenizer)
    space, task = made(rows, {"searched_templates": 2, "infiller": folder})
    chosen = {**space.published["prompt"], "template": "searched"}
    tuned = space.build(space.configuration({**chosen, "template_rank": 1}))
    with pytest.raises(InputError, match="template_rank: 1 is too high; the search found 0"):
        list(task.train(tuned, 13))
