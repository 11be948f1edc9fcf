"""The training policy: applied a step at a time, recorded, kept over a resume, chosen without a trace."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from naslab.errors import InputError
from naslab.kernels._compiling import telling
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.training import choice, train_in_rungs
from naslab.search_spaces.common.training.choice import Sampled, Training, Wanted, best, decide
from naslab.search_spaces.common.training.policy import Policy, PolicyOptions
from naslab.search_spaces.common.training.recomputation import recomputed_blocks, repeated_blocks
from naslab.search_spaces.common.training.step import Stepper
from naslab.search_spaces.find import make_task
from naslab.search_spaces.nasiam.frameworks import Views


class Images(nn.Module):
    """Convolutions with batch statistics, in two blocks, and a classifier."""

    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.blocks(images).mean((2, 3)))


def batches(model, optimiser, epoch, steps=4):
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(steps):
        yield torch.randn(8, 4, 6, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def loss(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images).float(), labels)


def made(seed=0, optimiser=torch.optim.AdamW):
    torch.manual_seed(seed)
    model = Images()
    return model, optimiser(model.parameters(), lr=0.01)


def trained(policy, clip_norm=None, steps=8, **made_by):
    model, optimiser = made(**made_by)
    stepper = Stepper(model.train(), optimiser, loss, policy, clip_norm)
    with policy.blocks(model):
        losses = [stepper(batch)["loss"].item() for batch in batches(model, optimiser, 0, steps)]
    return model, losses


def equal_states(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        (Policy("bfloat16"), 2**-6),
        (Policy("float16"), 2**-8),
        (Policy(memory_format="channels_last"), 1e-4),
        (Policy("bfloat16", "channels_last"), 2**-6),
    ],
    ids=str,
)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_a_policy_trains_as_float32_does_up_to_its_rounding(policy, tolerance, clip_norm):
    """Relative rounding of a product's inputs is 2^-9 and 2^-12; some steps add up to a few times as much."""
    _, plain = trained(Policy(), clip_norm)
    model, losses = trained(policy, clip_norm)
    assert losses == pytest.approx(plain, rel=tolerance)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_scaled_gradient_is_clipped_to_the_norm_that_is_asked_for():
    """SGD moves by rate times the clipped gradient: the scale of 2^16 must be taken off before."""
    start, _ = made(optimiser=torch.optim.SGD)
    model, _ = trained(Policy("float16"), clip_norm=0.05, steps=1, optimiser=torch.optim.SGD)
    moved = [(a - b).norm() for a, b in zip(start.parameters(), model.parameters(), strict=True)]
    assert torch.stack(moved).norm().item() == pytest.approx(0.01 * 0.05, rel=1e-2)


def test_forwards_of_different_steps_share_no_rounded_weights():
    """What an autocast context that spans steps gets wrong: the forward would go on with the first weights."""
    model, optimiser = made(optimiser=torch.optim.SGD)
    seen = []

    def spied(model, batch):
        seen.append(model.head(torch.eye(4)).detach().float())
        return loss(model, batch)

    stepper = Stepper(model, optimiser, spied, Policy("bfloat16"))
    for group in optimiser.param_groups:
        group["lr"] = 10.0
    for batch in batches(model, optimiser, 0, 3):
        now = model.head(torch.eye(4)).detach()
        stepper(batch)
        assert (seen[-1] - now).abs().max() < 2**-7 * now.abs().max()
    assert (seen[-1] - seen[0]).abs().max() > 2**-4 * now.abs().max()


def test_simclr_does_not_collapse_in_bfloat16():
    space = find_space("nasiam", "tiny", {"framework": "simclr"})
    deviations = {}
    for policy in (Policy(), Policy("bfloat16", "channels_last")):
        seed_everything(0)
        model = space.build(space.reference).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        stepper = Stepper(model, optimiser, lambda model, views: model.loss(views), policy)
        for _ in range(12):
            images = torch.randn(32, 1, 28, 28)
            stepper(Views(images, images + 0.1 * torch.randn_like(images)))
        z = nn.functional.normalize(model.eval().project(torch.randn(64, 1, 28, 28)).detach(), dim=1)
        deviations[policy.precision] = (z.std(0) * z.shape[1] ** 0.5).mean().item()
    assert deviations["bfloat16"] == pytest.approx(deviations["float32"], rel=0.1)


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    """Without batch statistics; the parts of 8 samples in 3 are 3, 3 and 2."""
    torch.manual_seed(0)
    whole, parts = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    parts.load_state_dict(whole.state_dict())
    x, y = torch.randn(8, 5).double(), torch.randint(3, (8,))
    for model, policy in ((whole, Policy()), (parts, Policy(accumulation=3))):
        stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0), _plain_loss, policy)
        value = stepper((x, y))["loss"]
    assert value.item() == pytest.approx(_plain_loss(whole, (x, y)).item(), abs=1)
    assert torch.allclose(whole.weight, parts.weight, rtol=1e-12)


def _plain_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_recomputed_blocks_change_neither_weights_nor_batch_statistics():
    plain, losses = trained(Policy())
    recomputed, again = trained(Policy(recompute=True))
    assert again == losses
    assert equal_states(plain, recomputed)


def test_recomputation_keeps_less_and_leaves_the_model_as_it_was():
    model, _ = made()
    assert repeated_blocks(model) == list(model.blocks)
    images = torch.randn(8, 4, 6, 6)
    sizes = []
    pack = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images).sum()
        kept = sum(sizes)
        sizes.clear()
        with recomputed_blocks(model):
            model(images).sum()
    assert sum(sizes) < kept / 2
    assert all("forward" not in vars(block) for block in model.blocks)


@pytest.mark.parametrize("optimiser", [torch.optim.AdamW, torch.optim.SGD])
def test_a_resumed_training_keeps_policy_layout_and_scale(tmp_path, optimiser):
    """Fused optimisers walk memory: state that is loaded contiguous would meet weights in another order."""
    budget = SimpleNamespace(epochs=2, rung_epochs=1)
    wanted = Wanted(PolicyOptions(precision="float16", memory_format="channels_last", compile="off"), 8, {})
    runs = {}
    for name, stops in {"unbroken": (2,), "broken": (1, 2)}.items():
        for epochs in stops:
            model, opt = made(optimiser=lambda p, lr: optimiser(p, lr=lr, fused=True, **_momentum(optimiser)))
            budget.epochs = epochs
            # The second process asks for something else, as after a new measurement: the checkpoint's policy holds.
            asked = wanted if epochs == stops[0] else Wanted(PolicyOptions(), 8, {})
            rungs = list(train_in_rungs(model, opt, batches, loss, budget, 0, tmp_path / name, None, asked))
            assert rungs[-1].policy == Policy("float16", "channels_last").to_dict()
        runs[name] = model
    assert equal_states(runs["unbroken"], runs["broken"])


def _momentum(optimiser):
    return {"momentum": 0.9} if optimiser is torch.optim.SGD else {}


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """`auto` measures whatever the length of the training, in a cache of its own."""
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(choice, "LEAST_STEPS", 1)
    return tmp_path / "cache" / "policies"


def test_measuring_leaves_the_training_bit_identical(measured):
    budget, asked = SimpleNamespace(epochs=2, rung_epochs=1), PolicyOptions(precision="float32", compile="off")

    def noisy(model, optimiser, epoch):
        for images, labels in batches(model, optimiser, epoch):
            yield images + torch.randn_like(images), labels  # draws from the global generator

    states = []
    for wanted in (None, Wanted(asked.model_copy(update={"memory_format": "auto"}), 100, {"of": "test"})):
        model, optimiser = made()
        list(train_in_rungs(model, optimiser, noisy, loss, budget, 0, None, None, wanted))
        states.append(model)
    (file,) = measured.glob("*.json")
    if json.loads(file.read_text())["policy"]["memory_format"] == "contiguous":
        assert equal_states(*states)
    model, optimiser = made()
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    other = Wanted(asked.model_copy(update={"memory_format": "auto"}), 101, {"of": "test"})
    decide(other, Training(model, optimiser, noisy, loss))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not optimiser.state


def test_a_choice_is_made_once_and_then_taken_from_the_cache(measured, monkeypatch):
    training = Training(*made(), batches, loss)
    wanted = Wanted(PolicyOptions(compile="off"), 50, {"of": "test"})
    first = decide(wanted, training)
    (file,) = measured.glob("*.json")
    document = json.loads(file.read_text())
    assert document["provenance"]["torch"] == torch.__version__
    assert all(len(sample["seconds"]) >= choice.LEAST_ROUNDS for sample in document["samples"])
    monkeypatch.setattr(choice, "measure", None)  # would raise
    assert decide(wanted, training) == first
    document["policy"]["precision"] = "bfloat16"
    file.write_text(json.dumps(document))
    assert decide(wanted, training).precision == "bfloat16"


def test_the_first_of_two_processes_decides(measured):
    path = measured / "x.json"
    measured.mkdir(parents=True)
    first = {"schema": choice.SCHEMA, "policy": Policy("bfloat16").to_dict()}
    second = {**first, "policy": Policy().to_dict()}
    assert choice._keep(path, first, Policy()) == choice._keep(path, second, Policy()) == Policy("bfloat16")
    assert list(measured.iterdir()) == [path]


KEPT = {"schema": choice.SCHEMA, "policy": Policy("bfloat16").to_dict()}
DAMAGED = {
    "empty": b"",
    "cut off": json.dumps(KEPT).encode()[:-7],
    "zeros, as after a power cut": bytes(200),
    "no text": b"\xff\xfe\x80",
    "a list": b"[]",
    "nothing": b"null",
    "deep": b"[" * 100_000,
    "another schema": json.dumps({**KEPT, "schema": "naslab.policy/0"}).encode(),
    "no policy": json.dumps({"schema": choice.SCHEMA}).encode(),
    "no mapping": json.dumps({**KEPT, "policy": [1]}).encode(),
    "another key": json.dumps({**KEPT, "policy": {"colour": "red"}}).encode(),
    "another precision": json.dumps({**KEPT, "policy": {"precision": "bf16"}}).encode(),
    "no text for a format": json.dumps({**KEPT, "policy": {"memory_format": {}}}).encode(),
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_choice_is_made_again(measured, damaged):
    path = measured / "x.json"
    measured.mkdir(parents=True)
    path.write_bytes(damaged)
    assert choice._recorded(path) is None
    assert choice._keep(path, KEPT, Policy()) == Policy("bfloat16")
    assert list(measured.iterdir()) == [path]


def test_a_choice_is_kept_where_a_file_system_has_no_links(measured, monkeypatch):
    def without_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", without_links)
    path = measured / "x.json"
    assert choice._keep(path, KEPT, Policy()) == Policy("bfloat16")
    assert choice._keep(path, {**KEPT, "policy": Policy().to_dict()}, Policy()) == Policy("bfloat16")
    assert list(measured.iterdir()) == [path]


@pytest.fixture
def blocked(monkeypatch):
    """Set once a process has to wait for the lock."""
    found, has_locked = Event(), choice._has_locked

    def announced(file):
        locked = has_locked(file)
        if not locked:
            found.set()
        return locked

    monkeypatch.setattr(choice, "_has_locked", announced)
    return found


def test_trials_that_begin_together_measure_once_and_the_wait_is_no_training(measured, monkeypatch, blocked):
    training, told = Training(*made(), batches, loss), []
    wanted = Wanted(PolicyOptions(compile="off"), 50, {"of": "test"})
    path = choice._path(wanted, training.device)
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(choice, "measure", None)  # would raise
    with telling(lambda *fact: told.append(fact)), ThreadPoolExecutor() as other, choice._alone(path):
        later = other.submit(decide, wanted, training)
        assert blocked.wait(60)
        choice._keep(path, KEPT, Policy())
        assert later.result(60) == Policy("bfloat16"), "the choice is enough, whoever holds the lock"
    ((seconds, threads),) = told
    assert seconds > 0
    assert threads == 0, "no core works while it waits"


HOLD = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"


@pytest.mark.parametrize(("end", "patience"), [(signal.SIGKILL, 600.0), (signal.SIGSTOP, 0.5)])
def test_whoever_waits_measures_itself_where_the_first_is_killed_or_stopped(
    measured, monkeypatch, blocked, end, patience
):
    training = Training(*made(), batches, loss)
    wanted = Wanted(PolicyOptions(compile="off"), 50, {"of": "test"})
    path = choice._path(wanted, training.device)
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(choice, "PATIENCE_SECONDS", patience)
    lock = str(path.with_suffix(".lock"))
    first = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        first.stdout.readline()
        with ThreadPoolExecutor() as other:
            later = other.submit(decide, wanted, training)
            assert blocked.wait(60)
            first.send_signal(end)
            assert later.result(60) == choice._recorded(path)
    finally:
        first.kill()
        first.communicate()


def test_what_was_forked_during_a_measurement_does_not_hold_others_up(measured):
    """As data loaders that live as long as their training: they have the lock's file open, too."""
    measured.mkdir(parents=True)
    with choice._alone(measured / "x.json"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
    try:
        with (measured / "x.lock").open("w") as file:
            assert choice._has_locked(file)
    finally:
        child.kill()
        child.join()


def test_a_choice_is_made_where_nothing_can_be_locked(measured, monkeypatch):
    def without_locks(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(choice.fcntl, "flock", without_locks)
    decide(Wanted(PolicyOptions(compile="off"), 50, {"of": "test"}), Training(*made(), batches, loss))
    assert len(list(measured.glob("*.json"))) == 1


def test_auto_is_plain_where_nothing_can_be_kept_or_the_training_is_short(measured, monkeypatch):
    training, asked = Training(*made(), batches, loss), PolicyOptions()
    monkeypatch.setattr(choice, "measure", None)  # would raise
    monkeypatch.setenv("NASLAB_CACHE", "/dev/null/none")
    assert decide(Wanted(asked, 1000, {}), training) == Policy()
    monkeypatch.undo()
    monkeypatch.setattr(choice, "measure", None)
    assert decide(Wanted(asked, choice.LEAST_STEPS - 1, {}), training) == Policy()


def test_what_is_measured_once_is_weighed_against_all_trainings_and_charged_apart(measured, monkeypatch):
    """One short training pays for no measurement, a hundred of the same do; compilation is paid by each."""
    training, told = Training(*made(), batches, loss), []
    monkeypatch.setattr(choice, "LEAST_SECONDS", 1000.0)
    monkeypatch.setattr(choice, "SHARE", 0.0)
    once = choice.measure(Wanted(PolicyOptions(), 1, {}), training.copied())
    assert [sample.policy for sample in once] == [Policy()]
    trainings = 10**15  # of a picosecond each they would take 1000 s
    many = choice.measure(Wanted(PolicyOptions(), 1, {}, trainings), training.copied())
    assert len(many) == 4
    assert not any(sample.policy.compile for sample in many), "no single training is long enough"
    wanted = Wanted(PolicyOptions(), 1, {}, trainings=2).of(3, compile="off")
    assert (wanted.steps, wanted.trainings) == (3, 2)
    monkeypatch.setattr(choice, "LEAST_STEPS", 6)
    with telling(lambda seconds, threads: told.append((seconds, threads))):
        decide(wanted, training)
    ((seconds, threads),) = told
    (file,) = measured.glob("*.json")
    samples = json.loads(file.read_text())["samples"]
    assert seconds >= sum(sum(sample["seconds"]) for sample in samples)
    assert threads == torch.get_num_threads()
    monkeypatch.setattr(choice, "LEAST_STEPS", 7)
    monkeypatch.setattr(choice, "measure", None)  # would raise
    assert decide(wanted.of(3, compile="off", another="subject"), training) == Policy()


def test_another_policy_must_surely_be_faster_and_pay_for_its_compilation():
    plain = Sampled(Policy(), (1.0, 1.1, 0.9, 1.0, 1.0))
    noise = Sampled(Policy("bfloat16"), (0.5, 1.9, 0.9, 1.3, 0.8))
    fast = Sampled(Policy(memory_format="channels_last"), (0.8, 0.81, 0.79, 0.8, 0.8))
    compiled = Sampled(Policy(compile=True), (0.7, 0.7, 0.7, 0.7, 0.7), first_seconds=60.0)
    assert best([plain, noise], 1000) == plain.policy
    assert best([plain, noise, fast], 1000) == fast.policy
    assert best([plain, fast, compiled], 500) == fast.policy  # 400 against 350 + 60
    assert best([plain, fast, compiled], 1000) == compiled.policy  # 800 against 700 + 60


def test_compiled_training_equals_eager(monkeypatch):
    width = {"DEFAULT": 1, "AVX2": 256}.get(torch.backends.cpu.get_cpu_capability())
    monkeypatch.setattr("torch._inductor.config.cpp.simdlen", width)  # Inductor looks at the processor by itself
    _, plain = trained(Policy(), steps=3)
    _, compiled = trained(Policy(compile=True), steps=3)
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_a_study_may_ask_for_a_policy_and_the_rungs_say_it():
    space = find_space("token_reduction", "tiny", {})
    values = {"epochs": 1, "batch_size": 32, "dataset": {"train": 64, "validation": 10, "test": 10}}
    task = make_task(space, {**values, "policy": {"precision": "bfloat16"}}, torch.device("cpu"))
    (rung,) = task.train(space.build(space.reference), 0)
    assert rung.policy == Policy("bfloat16").to_dict()
    with pytest.raises(InputError, match=r"task\.policy\.precision: must be .*float32"):
        make_task(space, {**values, "policy": {"precision": "bf16"}}, torch.device("cpu"))
    with pytest.raises(InputError, match=r"task\.policy\.cuda_graphs: applies only with compile"):
        make_task(space, {**values, "policy": {"cuda_graphs": True}}, torch.device("cpu"))
