import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from naslab.errors import InputError
from naslab.search_spaces import TrainingDiverged, find_space
from naslab.search_spaces.altup.task import LanguageModelling, LanguageModellingOptions, multiplies
from naslab.search_spaces.common.objectives.span_batches import SpanBatches
from naslab.search_spaces.common.objectives.spans import corrupt, span_shape
from naslab.search_spaces.common.scores.text_baselines import lzma_bits, ngram_bits
from naslab.search_spaces.data.text import BEGIN, END, FIRST_SENTINEL, IGNORED, CausalBatches

SIZES = {"context": 32, "width": 32, "hidden": 48, "layers": 3, "vocabulary": 400}
BUDGET = {"epochs": 3, "steps_per_epoch": 8, "batch_size": 8, "data": {"max_characters": 60_000}}


def make(sizes=None, **options):
    space = find_space("altup", "tiny", {**SIZES, **(sizes or {})})
    return LanguageModelling(space, LanguageModellingOptions.model_validate({**BUDGET, **options}), torch.device("cpu"))


def trained(task, stop_after=None, checkpoint=None, configuration=None):
    torch.manual_seed(0)
    model = task.space.build(configuration or task.space.reference)
    rungs = list(itertools.islice(task.train(model, 5, checkpoint), stop_after))
    return model, rungs


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("sizes", "method"),
    [({}, {}), ({}, {"coefficients": "per_token", "experts": 4}), ({"form": "encoder_decoder"}, {})],
)
def test_a_resumed_training_ends_bit_for_bit_like_an_unbroken_one(sizes, method, tmp_path):
    task = make(sizes)
    configuration = task.space.configuration({**task.space.reference, **method})
    whole, rungs = trained(task, configuration=configuration)
    _, first = trained(task, 1, tmp_path / "c", configuration)
    torch.manual_seed(99)
    resumed = task.space.build(configuration)
    rest = list(task.train(resumed, 5, tmp_path / "c"))
    assert equal(whole, resumed)
    assert [*first[:-1], *rest] == rungs  # the rung of the checkpoint is told again


def test_rungs_come_as_asked_and_count_steps():
    task = make(rung_epochs=2)
    _, rungs = trained(task)
    assert [rung.epoch for rung in rungs] == [2, 3]
    assert task.max_epochs == 3
    assert [rung.facts["steps"] for rung in rungs] == [16, 24]
    assert rungs[-1].facts["tokens"] == 24 * 8 * 32
    assert make(steps_per_epoch=None).steps_per_epoch == task.batches_per_pass


def test_training_learns_and_beats_the_unigram():
    task = make(epochs=8, steps_per_epoch=25, learning_rate=1e-2)
    model, rungs = trained(task)
    scores = task.evaluate(model, "test")
    controls = {control.name: control.measure(0, "test") for control in task.controls()}
    assert rungs[-1].facts["loss"] < rungs[0].facts["loss"]
    assert controls["untrained"]["bits_per_byte"] > controls["unigram"]["bits_per_byte"] > scores["bits_per_byte"]
    assert set(controls) == {"unigram", "trigram", "lzma", "untrained"}
    for named in [scores, *controls.values()]:
        assert named[task.metric] == pytest.approx(8 - named["bits_per_byte"])


def test_bits_per_byte_are_those_of_every_token_once():
    """Against a loop over windows that adds up log-probabilities one by one."""
    task = make()
    model, _ = trained(task, 1)
    part, length = task.data.validation, 32
    bits = 0.0
    tokens = [BEGIN, *part.tokens.tolist()]
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            window = torch.tensor([tokens[start : start + length]])
            logs = model.logits(window).log_softmax(-1)[0]
            following = tokens[start + 1 : start + 1 + length]
            bits -= sum(float(logs[i, token]) for i, token in enumerate(following)) / math.log(2)
    scores = task.evaluate(model, "validation")
    assert scores["bits_per_byte"] == pytest.approx(bits / len(part.text.encode()), rel=1e-5)
    assert task.evaluate(model, "validation", full=False) == scores
    fewer = make(rung_windows=3)
    assert fewer.evaluate(model, "validation", full=False) != scores


@pytest.mark.parametrize("sizes", [{"form": "encoder_decoder"}, {}])
def test_span_corruption_learns(sizes):
    task = make(sizes, objective="span_corruption", epochs=2, steps_per_epoch=60, learning_rate=5e-3)
    model, _ = trained(task)
    assert task.metric == "span_accuracy"
    scores = task.evaluate(model, "validation")
    controls = {control.name: control.measure(0, "validation") for control in task.controls()}
    assert scores["span_accuracy"] > controls["untrained"]["span_accuracy"]
    assert 0 < controls["most_frequent"]["span_accuracy"] < 30
    assert scores == task.evaluate(model, "validation")


def test_batches_are_pieces_of_the_text_each_token_at_most_once_a_pass():
    tokens, batching = torch.arange(1000), CausalBatches(4, 16)
    per_pass = batching.per_pass(tokens)
    assert per_pass == 15
    seen = []
    for step in range(per_pass):
        batch = batching.batch(tokens, 3, step, per_pass)
        assert torch.equal(batch["targets"], batch["tokens"] + 1)
        assert batch["tokens"].shape == (4, 16)
        seen += batch["tokens"].flatten().tolist()
    assert len(set(seen)) == len(seen) == 960
    first, again, later, other = (batching.batch(tokens, s, n, per_pass) for s, n in ((3, 0), (3, 0), (3, 15), (4, 0)))
    assert torch.equal(first["tokens"], again["tokens"])
    assert not torch.equal(first["tokens"], later["tokens"])
    assert not torch.equal(first["tokens"], other["tokens"])


@pytest.mark.parametrize("number", [1, 15, 16, 17, 400])
def test_evaluation_asks_for_every_token_once(number):
    tokens = torch.arange(5, 5 + number)
    batches = list(CausalBatches(4, 16).evaluation(tokens, None))
    targets = torch.cat([b["targets"].flatten() for b in batches])
    assert torch.equal(targets[targets != IGNORED], tokens)
    inputs = torch.cat([b["tokens"].flatten() for b in batches])
    assert inputs[0] == BEGIN
    assert torch.equal(inputs[1:number], tokens[:-1])


@pytest.mark.parametrize("inputs", [3, 8, 32, 128, 512])
def test_spans_put_together_are_the_text(inputs):
    shape = span_shape(inputs)
    assert shape.inputs <= inputs
    raw = np.random.default_rng(0).integers(1000, 2000, (7, shape.raw))
    given, wanted = corrupt(raw, shape, FIRST_SENTINEL, END, np.random.default_rng(1))
    assert given.shape == (7, shape.inputs)
    assert wanted.shape == (7, shape.targets)
    for row, (left, right) in enumerate(zip(given.tolist(), wanted.tolist(), strict=True)):
        assert right.pop() == END
        spans = {}
        for token in right:
            if token < 1000:
                spans[token] = current = []
            else:
                current.append(token)
        assert list(spans) == list(range(FIRST_SENTINEL, FIRST_SENTINEL + shape.spans))
        assert all(spans.values())
        whole = [t for token in left for t in (spans[token] if token < 1000 else [token])]
        assert whole == raw[row].tolist()


def test_spans_are_as_published():
    """T5: 512 inputs are left of 568 tokens, 114 targets (its task code), at 15 % and spans of three."""
    shape = span_shape(512 - 1)
    assert (shape.raw, shape.targets) == (568, 114)
    lengths = Counter()
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, wanted = corrupt(np.full((4, 568), 999), shape, 3, 2, rng)
        lengths.update((wanted == 999).sum(1).tolist())
    assert set(lengths) == {shape.noise}


def test_a_prefix_holds_inputs_then_targets_and_scores_the_targets_alone():
    tokens = torch.arange(100, 1000)
    prefix, pair = (SpanBatches(2, 32, 0.15, 3.0, prefix=p) for p in (True, False))
    a, b = prefix.batch(tokens, 0, 0, 10), pair.batch(tokens, 0, 0, 10)
    assert torch.equal(a["tokens"], torch.cat([b["tokens"], b["decoder_tokens"]], 1))
    assert (a["targets"][:, : b["tokens"].shape[1]] == IGNORED).all()
    assert torch.equal(a["targets"][:, b["tokens"].shape[1] :], b["targets"])
    assert torch.equal(b["decoder_tokens"][:, 1:], b["targets"][:, :-1])


def test_ngrams_are_probabilities():
    """Summed over every possible next token they give 1; on a text that repeats itself they need next to no bits."""
    train = torch.tensor([3, 1, 2, 3, 1, 2, 0, 3, 1])
    history = [3, 1]
    base = ngram_bits(train, torch.tensor(history), 5, 3)
    total = sum(2 ** (base - ngram_bits(train, torch.tensor([*history, token]), 5, 3)) for token in range(5))
    assert total == pytest.approx(1)
    counts = torch.bincount(train, minlength=5)
    expected = -sum(math.log2((int(counts[t]) + 4 / 5) / (len(train) + 4)) for t in (1, 1, 4))
    assert ngram_bits(train, torch.tensor([1, 1, 4]), 5, 1) == pytest.approx(expected)


def test_a_compressor_that_has_seen_the_text_needs_few_bits():
    text = "".join(chr(97 + i % 26) + str(i * i) for i in range(2000))
    assert lzma_bits(text, text) < 0.05 * lzma_bits("", text)


def test_weights_of_norms_embeddings_and_mixtures_do_not_decay():
    task = make()
    model = task.space.build(task.space.configuration({**task.space.reference, "coefficients": "per_token"}))
    decayed = {name for name, parameter in model.named_parameters() if multiplies(name, parameter)}
    assert "unembedding.table.weight" in decayed
    assert "stack.0.layer.self_attention.query.weight" in decayed
    assert not any(
        "coefficients" in n or "norm" in n or "embedding.table" in n for n in decayed - {"unembedding.table.weight"}
    )


def test_divergence_is_said():
    task = make(clip_norm=1e30, epochs=1)
    task.options = task.options.model_copy(update={"learning_rate": 1e30})  # no user may ask for it
    with pytest.raises(TrainingDiverged, match=r"loss is (nan|inf)"):
        trained(task)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({"form": "encoder_decoder"}, {"objective": "causal"}, "task.objective: causal needs"),
        (
            {},
            {"data": {"max_characters": 300}},
            "the training part has .* tokens; a batch of 8 windows of 32 needs 257",
        ),
        ({}, {"data": {"corpus": "files", "files": ["/nowhere.txt"]}}, "/nowhere.txt: cannot be read"),
        ({"vocabulary": 260}, {"objective": "span_corruption"}, "vocabulary: 260 is too small"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(sizes, options, message):
    with pytest.raises(InputError, match=message) as caught:
        make(sizes, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["noise_density", "mean_span"])
def test_an_option_of_the_other_objective_is_refused(option):
    value = LanguageModellingOptions(epochs=1).model_dump()[option]
    with pytest.raises(InputError, match=rf"^task\.{option}: applies only with objective = span_corruption"):
        make(**{option: value})
    make(objective="span_corruption", **{option: value})


def test_the_benchmark_names_the_text_not_the_recipe():
    one, other = make(), make(learning_rate=1e-4, epochs=1, batch_size=4)
    assert one.benchmark == other.benchmark
    assert one.benchmark["text_sha256"] == one.data.sha256
    assert make(data={"max_characters": 50_000}).benchmark != one.benchmark


@pytest.mark.parametrize("form", ["decoder", "encoder_decoder"])
def test_example_inputs_of_task_and_space_have_the_same_shapes(form):
    task = make({"form": form})
    own, random = task.example_input(3), task.space.example_input(3)
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in random.items()}
    model, _ = trained(task, 1)
    assert torch.equal(model.eval()(**own), model(**own))
