"""The passes of a training step against a naive twin, and the networks against transformers' own use of them."""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2Model,
    T5Config,
)

from naslab.efficiency import count_forward, count_training_step
from naslab.errors import InputError
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.modules.pretrained import read_pretrained
from naslab.search_spaces.data.text import IGNORED, Pairs
from naslab.search_spaces.data.text.pair_tokenizers import BytePairs
from naslab.search_spaces.dysi.networks import step_flops
from naslab.search_spaces.dysi.pairs import token_pairs

FORMS = ("encoder_decoder", "decoder")
SIZES = {"source_tokens": 7, "target_tokens": 6, "vocabulary": 300, "layers": 1, "width": 16, "heads": 2, "hidden": 24}
everything = pytest.mark.parametrize("form", FORMS)
PAIRS = Pairs(["a b c d", "x", "hi there you", "zzz q"], ["abcd", "xy", "hi", "zq zq zq"])


def built(form, name="reference", dropout=0.0, **values):
    space = find_space("dysi", "tiny", {**SIZES, "form": form, "dropout": dropout})
    configuration = space.reference if name == "reference" else space.published[name]
    if values:
        configuration = space.configuration({**configuration, **values})
    seed_everything(0)
    return space, space.build(configuration)


def batch_of(space, share=0.25, seed=3):
    tokenizer = BytePairs(PAIRS, SIZES["vocabulary"])
    pairs = token_pairs(PAIRS, tokenizer, space.options)
    return pairs.batch(range(len(PAIRS)), torch.Generator().manual_seed(seed), share)


def row_logits(model, batch, row, tokens):
    """What transformers gives for one source without its padding and these decoder tokens."""
    source = batch["source"][row]
    source = source[source != model.ids.pad][None]
    if hasattr(model.network, "get_decoder") and model.network.config.is_encoder_decoder:
        return model.network(input_ids=source, decoder_input_ids=tokens[None]).logits[0]
    return model.network(input_ids=torch.cat([source, tokens[None]], 1)).logits[0, source.shape[1] :]


def twin_loss(model, batch, strength, imitation):
    """DySI's loss, sequence by sequence and token by token."""
    nats, divergence, number = 0.0, 0.0, 0
    for row, targets in enumerate(batch["targets"]):
        length = int((targets != IGNORED).sum())
        targets, gold = targets[:length], batch["decoder_tokens"][row, :length]
        with torch.no_grad():
            expert = row_logits(model, batch, row, gold)
        predicted = expert.argmax(-1)
        accuracy = (predicted == targets).double().mean().item()
        draw, rounding = batch["draw"][row, 0].tolist()
        count = int(strength * accuracy * draw * (length - 1) + rounding)
        places = sorted(range(1, length), key=lambda place: batch["noise"][row, place, 0, 0].item())[:count]
        mixed = gold.clone()
        for place in places:
            mixed[place] = predicted[place - 1]
        logits = row_logits(model, batch, row, mixed)
        for place in range(length):
            log_q, p = logits[place].log_softmax(0), expert[place].softmax(0)
            nats = nats - log_q[targets[place]]
            divergence = divergence + (p * (p.log() - log_q)).sum()
        number += length
    return (nats + imitation * divergence) / number


@everything
def test_a_training_step_is_that_of_a_naive_twin(form):
    space, model = built(form)
    batch = batch_of(space)
    # Right answers for some tokens, so that something is replaced.
    with torch.no_grad():
        predicted = model.write(model.read(batch["source"]), batch["decoder_tokens"]).argmax(-1)
    right = torch.rand(batch["targets"].shape, generator=torch.Generator().manual_seed(0)) < 0.8
    batch["targets"] = torch.where(right & (batch["targets"] != IGNORED), predicted, batch["targets"])
    batch["draw"] = batch["draw"].clamp(min=0.6)
    model.double().train()
    found = model(**{**batch, "weight": batch["weight"].double()})
    assert found["replaced"] > 0.05
    expected = twin_loss(model, batch, 0.5, 0.5)
    # The weights of the mean are rounded to float32.
    torch.testing.assert_close(found["loss"].detach(), expected.detach(), rtol=1e-6, atol=0)
    gradients = [
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in (found["loss"], expected)
    ]
    for ours, twin in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-6, atol=1e-7)


@everything
def test_teacher_forcing_is_transformers_own_loss(form):
    space, model = built(form, "teacher-forcing")
    batch = batch_of(space)
    number = nats = 0
    for row, targets in enumerate(batch["targets"]):
        length = int((targets != IGNORED).sum())
        logits = row_logits(model, batch, row, batch["decoder_tokens"][row, :length])
        nats += F.cross_entropy(logits, targets[:length], reduction="sum")
        number += length
    torch.testing.assert_close(model.train()(**batch)["loss"], nats / number, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.eval()(**batch)["loss"], nats / number, rtol=1e-5, atol=1e-5)


def test_labels_of_t5_give_the_same_loss():
    space, model = built("encoder_decoder", "teacher-forcing")
    batch = batch_of(space)
    theirs = model.network(
        input_ids=batch["source"], attention_mask=batch["source"].ne(0).long(), labels=batch["targets"]
    ).loss
    torch.testing.assert_close(model.eval()(**batch)["loss"], theirs, rtol=1e-5, atol=1e-5)


@everything
@pytest.mark.parametrize("name", ["linear", "parallel", "parallel-3", "dynamic-alone"])
def test_nothing_replaced_is_teacher_forcing(form, name):
    space, model = built(form, name)
    batch = batch_of(space, share=0.0)
    batch["draw"].zero_()
    sampled = model.train()(**batch)
    assert sampled["replaced"] == 0
    torch.testing.assert_close(sampled["loss"], model.eval()(**batch)["loss"], rtol=1e-6, atol=1e-6)


@everything
def test_imitation_of_an_equal_expert_costs_nothing(form):
    space, model = built(form, imitation=2.0)
    batch = batch_of(space)
    batch["draw"].zero_()
    found = model.train()(**batch)
    assert found["imitation"].abs() < 1e-6
    torch.testing.assert_close(found["loss"], found["nll"], rtol=1e-6, atol=2e-6)


@everything
def test_every_token_replaced_is_fed_the_predictions(form):
    space, model = built(form, "parallel", strength=1.0, candidates="argmax")
    batch = batch_of(space, share=1.0)
    model.train()
    sources = model.read(batch["source"])
    predicted = model.write(sources, batch["decoder_tokens"]).argmax(-1)
    fed = torch.cat([batch["decoder_tokens"][:, :1], predicted[:, :-1]], 1)
    counted = batch["targets"] != IGNORED
    loss = F.cross_entropy(model.write(sources, fed)[counted], batch["targets"][counted])
    torch.testing.assert_close(model(**batch)["loss"], loss, rtol=1e-5, atol=1e-5)
    assert model(**batch)["replaced"] == (counted.sum() - len(counted)) / counted.sum()


@everything
def test_a_third_pass_keeps_the_first_replaced_token(form):
    """After k passes the first k tokens are those that a sequential pass would have written."""
    space, model = built(form, "parallel-3", strength=1.0, candidates="argmax")
    batch = batch_of(space, share=1.0)
    model.train()
    sources, begin = model.read(batch["source"]), batch["decoder_tokens"][:, :1]
    first = model.write(sources, batch["decoder_tokens"]).argmax(-1)
    second = model.write(sources, torch.cat([begin, first[:, :-1]], 1)).argmax(-1)
    fed = torch.cat([begin, first[:, :1], second[:, 1:-1]], 1)
    counted = batch["targets"] != IGNORED
    loss = F.cross_entropy(model.write(sources, fed)[counted], batch["targets"][counted])
    torch.testing.assert_close(model(**batch)["loss"], loss, rtol=1e-5, atol=1e-5)


@everything
def test_parts_of_a_batch_add_up_to_it(form):
    """What accumulation and several processes rely on: the weights make it a mean over rows."""
    space, model = built(form)
    batch = batch_of(space)
    whole = model.train()(**batch)["loss"]
    parts = [model(**{name: tensor[rows] for name, tensor in batch.items()})["loss"] for rows in ([0], [1, 2, 3])]
    torch.testing.assert_close(whole, parts[0] / 4 + parts[1] * 3 / 4, rtol=1e-5, atol=1e-5)


@everything
def test_padding_changes_nothing(form):
    space, model = built(form)
    batch = batch_of(space)
    alone = {name: tensor[1:2] for name, tensor in batch.items()}
    logits = model.eval().write(model.read(alone["source"]), alone["decoder_tokens"])
    length = int((alone["targets"] != IGNORED).sum())
    bare = row_logits(model, batch, 1, batch["decoder_tokens"][1, :length])
    torch.testing.assert_close(logits[0, :length], bare, rtol=1e-4, atol=1e-5)


@everything
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_goes_on_from_its_prefix_by_its_own_predictions(form, beams):
    space, model = built(form)
    model.eval()
    source = batch_of(space)["source"]
    prefix = torch.tensor([[5, 6]] * len(source))
    written = model.generate(source, prefix, 3, beams)
    assert written.shape[0] == len(source)
    assert written.shape[1] <= 3
    if beams == 1:
        tokens = torch.cat([torch.full((len(source), 1), model.ids.begin), prefix], 1)
        for place in range(written.shape[1]):
            following = model.write(model.read(source), tokens)[:, -1].argmax(-1)
            ended = (written[:, :place] == model.ids.end).any(1)
            assert torch.equal(written[~ended, place], following[~ended])
            tokens = torch.cat([tokens, written[:, place : place + 1]], 1)


@everything
def test_gradients_survive_autocast(form):
    """The expert's pass makes rounded weights without gradients; torch would take them for the pass that learns."""
    space, model = built(form)
    batch = batch_of(space)
    model.train()
    exact = torch.autograd.grad(model(**batch)["loss"], list(model.parameters()), allow_unused=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch)["loss"]
    rounded = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for whole, half in zip(exact, rounded, strict=True):
        assert (whole is None) == (half is None)
        if whole is not None:
            assert torch.cosine_similarity(whole.flatten(), half.flatten(), 0) > 0.9 or whole.norm() < 1e-3


@everything
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_the_cost_of_a_step_is_its_closed_form(form, passes):
    name = {1: "teacher-forcing", 2: "reference", 3: "parallel-3"}[passes]
    space, model = built(form, name)
    inputs = space.example_input(2)
    assert count_forward(model, inputs).total == pytest.approx(space.forward_flops(space.reference, 2), rel=0.01)
    counted = count_training_step(model, inputs).total
    assert counted == pytest.approx(step_flops(space.options, 2, passes), rel=0.03)


@everything
def test_a_pretrained_network_gives_the_same_and_goes_back(form, tmp_path):
    space, model = built(form)
    model.network.save_pretrained(tmp_path / "network")
    options = {"form": form, "pretrained": str(tmp_path / "network"), "source_tokens": 7, "target_tokens": 6}
    loaded = find_space("dysi", None, options).build(space.reference)
    batch = batch_of(space)
    assert torch.equal(model.eval()(**batch)["loss"], loaded.eval()(**batch)["loss"])
    loaded.network.save_pretrained(tmp_path / "back")
    auto = AutoModelForSeq2SeqLM if form == "encoder_decoder" else AutoModelForCausalLM
    back = auto.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in model.network.state_dict().items())


def test_a_checkpoint_without_its_head_is_refused(tmp_path):
    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=20, tie_word_embeddings=False)
    GPT2Model(config).save_pretrained(tmp_path)
    space = find_space(
        "dysi", None, {"form": "decoder", "pretrained": str(tmp_path), "source_tokens": 7, "target_tokens": 6}
    )
    with pytest.raises(
        InputError, match=r"^space.options.pretrained: .* has no lm_head.weight, .*checkpoint with that head"
    ):
        space.build(space.reference)


@pytest.mark.parametrize(
    ("config", "form", "message"),
    [
        (GPT2Config(n_positions=12), "decoder", "texts of 13 tokens are longer than the 12 positions"),
        (GPT2Config(n_positions=50), "encoder_decoder", "a gpt2, needs form = decoder"),
        (T5Config(), "decoder", "a t5, needs form = encoder_decoder"),
        (GPT2Config(n_positions=20, eos_token_id=None), "decoder", "names no token that begins or none that ends"),
    ],
)
def test_a_pretrained_network_that_does_not_fit_is_refused(config, form, message, tmp_path):
    config.save_pretrained(tmp_path)
    options = {"form": form, "pretrained": str(tmp_path), "source_tokens": 7, "target_tokens": 6}
    with pytest.raises(InputError, match=message) as error:
        find_space("dysi", None, options)
    assert "\n" not in str(error.value)


def test_relative_positions_have_no_end(tmp_path):
    T5Config(n_positions=5, decoder_start_token_id=0).save_pretrained(tmp_path)
    options = {"pretrained": str(tmp_path), "source_tokens": 700, "target_tokens": 6}
    assert find_space("dysi", None, options).vocabulary == T5Config().vocab_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": "/nowhere/at/all"}, "pretrained: cannot load '/nowhere/at/all': no such folder"),
        ({"heads": 3}, "space.options.width: 16 is not a multiple of heads 3"),
        ({"vocabulary": 258}, "vocabulary"),
        ({"target_tokens": 9_999_999}, "space.options.target_tokens: input should be less than or equal to 16384"),
        ({"pretrained": "x", "width": 32}, "width: applies only with pretrained = None"),
    ],
)
def test_bad_options_are_one_line(options, message):
    given = {**({} if "pretrained" in options else SIZES), **options}
    with pytest.raises(InputError, match=message) as error:
        find_space("dysi", None, given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tied", [True, False])
def test_a_weight_that_is_left_out_is_there_only_where_it_is_tied(tied, tmp_path):
    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=20, tie_word_embeddings=tied)
    network = AutoModelForCausalLM.from_config(config)
    kept = {name: tensor for name, tensor in network.state_dict().items() if name != "lm_head.weight"}
    network.save_pretrained(tmp_path, state_dict=kept)
    _, missing = read_pretrained(AutoModelForCausalLM, str(tmp_path), "here")
    assert missing == ([] if tied else ["lm_head.weight"])
