"""Adaptation to a text: its steps are the shared ones, under the policy that the study asks for."""

import json
import weakref

import pytest
import torch
from fake_cuda import CUDA, fake_cuda
from lmbff_small import built, made, write_rows
from torch.nn import functional as F

from naslab.search_spaces import seed_everything
from naslab.search_spaces.common.objectives.masked_words import mask_words
from naslab.search_spaces.common.training import adaptation, choice
from naslab.search_spaces.common.training.adaptation import Adaptation, AdaptationOptions, adapt
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.policy import Policy, PolicyOptions
from naslab.search_spaces.common.training.schedule import learning_rate_share
from naslab.search_spaces.data.text import IGNORED, window_starts
from naslab.search_spaces.seeds import derive_seed

STEPS = {"steps": 4, "batch_size": 4, "length": 16, "masked": 0.3}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv")


@pytest.fixture(scope="module")
def given(rows):
    """A task that adapts, its special tokens, and the tokens of its text."""
    task = adapting(rows)[1]
    return task.tokenizer.special, task.adaptation.tokens_N


def adapting(rows, **more):
    text = {"corpus": "files", "files": [str(rows)]}
    return made(rows, adaptation={**STEPS, "text": text}, **more)


def network(rows):
    return built(made(rows)[0]).language_model


def asking(**policy):
    return Wanted(PolicyOptions(**{"compile": "off", **policy}), 4, {})


def adapted(rows, given, wanted=None, **options):
    """A small model after a few steps, and the loss."""
    model, options = network(rows), AdaptationOptions(**{**STEPS, **options})
    seed_everything(0)
    return model, adapt(model, *given, options, 7, wanted)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plainly_adapted(model, special, tokens, rate):
    """The loop written out: AdamW on the mean over hidden words, norms clipped, rate up and down."""
    seed_everything(0)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
    steps, size, span = STEPS["steps"], STEPS["batch_size"], STEPS["length"] - 2
    model.train()
    for step in range(steps):
        first = window_starts(
            len(tokens), span, size, derive_seed(7, "windows"), step, (len(tokens) - 1) // (span * size)
        )
        texts = torch.stack(
            [torch.tensor([special.cls, *tokens[i : i + span].tolist(), special.sep]) for i in first.tolist()]
        )
        noise = torch.rand(*texts.shape, 3, generator=torch.Generator().manual_seed(derive_seed(7, "masks", step)))
        ids, labels = mask_words(texts, noise, STEPS["masked"], special, model.config.vocab_size)
        for group in optimiser.param_groups:
            group["lr"] = rate * learning_rate_share(step / steps, 0.06)
        states = model.base_model(ids)[0]
        # In the order of the texts, padded to the most hidden words of one: sums round in this order.
        most = int((labels != IGNORED).sum(1).max())
        places = (labels != IGNORED).int().argsort(dim=1, descending=True, stable=True)[:, :most]
        chosen = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
        loss = F.cross_entropy(model.cls(chosen).flatten(0, 1), labels.gather(1, places).flatten(), ignore_index=-100)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return loss.item()


def test_in_float32_it_is_the_loop_written_out_bit_for_bit(rows, given):
    model, found = adapted(rows, given, learning_rate=3e-3)
    other = network(rows)
    assert found.loss == plainly_adapted(other, *given, rate=3e-3)  # of the last tenth: the last step alone
    assert found.policy == Policy()
    assert torch.equal(weights(model), weights(other))


def test_bfloat16_rounds_the_products_and_no_more(rows, given):
    plain, wide = adapted(rows, given)
    rounded, found = adapted(rows, given, asking(precision="bfloat16"))
    assert found.policy.precision == "bfloat16"
    assert not torch.equal(weights(plain), weights(rounded))
    assert found.loss == pytest.approx(wide.loss, rel=2**-7)
    assert all(p.dtype == torch.float32 for p in rounded.parameters())


def test_the_loss_is_the_mean_over_the_last_tenth(rows, given, monkeypatch):
    losses, step = [], adaptation.Stepper.__call__

    def told(self, batch):
        losses.append(step(self, batch)["loss"])
        return {"loss": losses[-1]}

    monkeypatch.setattr(adaptation.Stepper, "__call__", told)
    _, found = adapted(rows, given, steps=25)
    assert found.loss == pytest.approx((losses[-2] + losses[-1]).item() / 2, rel=1e-6)


def test_nothing_of_a_step_is_kept_past_the_next(rows, given, monkeypatch):
    """A kept number lies where large matrices were, which then no longer fit: memory grew by one of these a step."""
    seen, alive, step = [], [], adaptation.Stepper.__call__

    def watched(self, batch):
        alive.append(sum(reference() is not None for reference in seen))
        values = step(self, batch)
        seen.append(weakref.ref(values["loss"]))
        return values

    monkeypatch.setattr(adaptation.Stepper, "__call__", watched)
    adapted(rows, given, steps=30)
    assert len(alive) == 30
    assert max(alive) <= 2


def test_a_batch_in_parts_is_the_batch(rows, given):
    """Three parts of four texts, of which one has two."""
    found = []
    for parts in (1, 3):
        model = network(rows)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        found.append((adapt(model, *given, AdaptationOptions(**STEPS), 7, asking(accumulation=parts)), model))
    (whole, model), (cut, other) = found
    assert cut.policy.accumulation == 3
    assert cut.loss == pytest.approx(whole.loss, rel=1e-5)
    torch.testing.assert_close(weights(model), weights(other), atol=1e-4, rtol=1e-3)


def test_a_tasks_policy_reaches_the_adaptation_and_its_record(rows, tmp_path):
    seen = []
    space, task = adapting(rows, policy={"precision": "bfloat16"})
    model = built(space, demonstrations="none")
    head = model.language_model.cls
    watched = head.register_forward_hook(lambda module, given, found: seen.append((model.kept.split, found.dtype)))
    first, *_ = task.train(model, 13, tmp_path)
    watched.remove()
    assert {dtype for split, dtype in seen if split is None} == {torch.bfloat16}  # before the tuning, which keeps it
    assert first.earlier["adaptation"]["precision"] == first.policy["precision"] == "bfloat16"
    again = built(space, demonstrations="none")
    told, *_ = task.train(again, 13, tmp_path)  # the checkpoint's, without another adaptation
    assert told.earlier == first.earlier


def test_a_task_without_adaptation_tells_of_none(rows):
    space, task = made(rows)
    assert next(iter(task.train(built(space), 13))).earlier == {}


def test_auto_is_chosen_for_the_adaptation_by_itself(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(choice, "LEAST_STEPS", 1)
    space, task = adapting(rows)
    list(task.train(built(space, demonstrations="none"), 13))
    kept = [json.loads(file.read_text()) for file in (tmp_path / "policies").glob("*.json")]
    assert sorted(document["subject"].get("adaptation", False) for document in kept) == [False, True]
    assert {document["steps"] for document in kept if "adaptation" in document["subject"]} == {STEPS["steps"]}


def test_its_batches_are_sent_without_waiting(rows, given, monkeypatch):
    special, tokens = given
    options, model = AdaptationOptions(**STEPS), network(rows)
    batches = adaptation._Batches(special, tokens, options, 7, model.config.vocab_size)
    with fake_cuda(monkeypatch) as crossings:
        there = model.to(CUDA)
        optimiser = torch.optim.SGD([{"params": list(there.parameters()), "base_lr": 0.1}], lr=0.1)
        crossings.watching = True
        for batch in batches(there, optimiser, 0):
            assert {part.device for part in batch} == {CUDA}
            assert adaptation.masked_loss(there, *batch).device == CUDA
    assert crossings.found == []


@pytest.mark.parametrize(("asked", "followed"), [("auto", "off"), ("off", "off"), ("on", "on")])
def test_compiled_it_is_only_where_that_is_asked_for(asked, followed, rows, monkeypatch):
    heard = []
    monkeypatch.setattr(choice, "decide", lambda wanted, training: heard.append(wanted) or Policy())
    task = adapting(rows)[1]
    assert isinstance(task.adaptation, Adaptation)
    task.adaptation(network(rows), 7, Wanted(PolicyOptions(compile=asked), 100, {"of": "test"}, trainings=5))
    (wanted,) = heard
    assert (wanted.asked.compile, wanted.steps, wanted.trainings) == (followed, STEPS["steps"], 5)
    assert wanted.subject == {"of": "test", "adaptation": True}
