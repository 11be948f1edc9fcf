"""`auto`: a policy that is measured once, kept, shared by all trials, and chosen without a trace."""

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
from small_training import batches, equal_states, loss, made

from naslab.kernels._compiling import telling
from naslab.search_spaces.common.training import choice, choice_store, train_in_rungs
from naslab.search_spaces.common.training.choice import Sampled, Training, Wanted, best, decide
from naslab.search_spaces.common.training.choice_store import alone, keep, kept, path_of
from naslab.search_spaces.common.training.policy import Policy, PolicyOptions


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
    assert len(document["samples"][0]["seconds"]) >= choice.LEAST_ROUNDS
    monkeypatch.setattr(choice, "measure", None)  # would raise
    assert decide(wanted, training) == first
    document["policy"]["precision"] = "bfloat16"
    file.write_text(json.dumps(document))
    assert decide(wanted, training).precision == "bfloat16"


def test_the_first_of_two_processes_decides(measured):
    path = measured / "x.json"
    measured.mkdir(parents=True)
    first = {"schema": choice_store.SCHEMA, "policy": Policy("bfloat16").to_dict()}
    second = {**first, "policy": Policy().to_dict()}
    assert keep(path, first) == keep(path, second) == Policy("bfloat16")
    assert list(measured.iterdir()) == [path]


KEPT = {"schema": choice_store.SCHEMA, "policy": Policy("bfloat16").to_dict()}
DAMAGED = {
    "empty": b"",
    "cut off": json.dumps(KEPT).encode()[:-7],
    "zeros, as after a power cut": bytes(200),
    "no text": b"\xff\xfe\x80",
    "a list": b"[]",
    "nothing": b"null",
    "deep": b"[" * 100_000,
    "another schema": json.dumps({**KEPT, "schema": "naslab.policy/0"}).encode(),
    "no policy": json.dumps({"schema": choice_store.SCHEMA}).encode(),
    "no mapping": json.dumps({**KEPT, "policy": [1]}).encode(),
    "another key": json.dumps({**KEPT, "policy": {"colour": "red"}}).encode(),
    "another precision": json.dumps({**KEPT, "policy": {"precision": "bf16"}}).encode(),
    "no truth value": json.dumps({**KEPT, "policy": {"compile": "off"}}).encode(),
    "no number": json.dumps({**KEPT, "policy": {"accumulation": "2"}}).encode(),
    "no parts": json.dumps({**KEPT, "policy": {"accumulation": 0}}).encode(),
    "no text for a format": json.dumps({**KEPT, "policy": {"memory_format": {}}}).encode(),
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_choice_is_made_again(measured, damaged):
    path = measured / "x.json"
    measured.mkdir(parents=True)
    path.write_bytes(damaged)
    assert kept(path) is None
    assert keep(path, KEPT) == Policy("bfloat16")
    assert list(measured.iterdir()) == [path]


def test_processors_of_one_name_and_other_instructions_share_no_choice(monkeypatch):
    """A virtual processor's name tells nothing of them, and bfloat16 without units for it is slow."""
    paths = set()
    for instructions in ("flags: avx2", "flags: avx2 amx_bf16"):
        monkeypatch.setattr(choice_store, "instruction_set", lambda said=instructions: said)
        paths.add(path_of({}, 8, torch.device("cpu")))
    assert len(paths) == 2


def test_a_choice_is_kept_where_a_file_system_has_no_links(measured, monkeypatch):
    def without_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", without_links)
    path = measured / "x.json"
    assert keep(path, KEPT) == Policy("bfloat16")
    assert keep(path, {**KEPT, "policy": Policy().to_dict()}) == Policy("bfloat16")
    assert list(measured.iterdir()) == [path]


@pytest.fixture
def blocked(monkeypatch):
    """Set once a process has to wait for the lock."""
    found, has_locked = Event(), choice_store._has_locked

    def announced(file):
        locked = has_locked(file)
        if not locked:
            found.set()
        return locked

    monkeypatch.setattr(choice_store, "_has_locked", announced)
    return found


def test_trials_that_begin_together_measure_once_and_the_wait_is_no_training(measured, monkeypatch, blocked):
    training, told = Training(*made(), batches, loss), []
    wanted = Wanted(PolicyOptions(compile="off"), 50, {"of": "test"})
    path = path_of(wanted.subject, wanted.steps, training.device)
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(choice, "measure", None)  # would raise
    with telling(lambda *fact: told.append(fact)), ThreadPoolExecutor() as other, alone(path):
        later = other.submit(decide, wanted, training)
        assert blocked.wait(60)
        keep(path, KEPT)
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
    path = path_of(wanted.subject, wanted.steps, training.device)
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(choice_store, "PATIENCE_SECONDS", patience)
    lock = str(path.with_suffix(".lock"))
    first = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        first.stdout.readline()
        with ThreadPoolExecutor() as other:
            later = other.submit(decide, wanted, training)
            assert blocked.wait(60)
            first.send_signal(end)
            assert later.result(60) == kept(path)
    finally:
        first.kill()
        first.communicate()


def test_what_was_forked_during_a_measurement_does_not_hold_others_up(measured):
    """As data loaders that live as long as their training: they have the lock's file open, too."""
    measured.mkdir(parents=True)
    with alone(measured / "x.json"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
    try:
        with (measured / "x.lock").open("w") as file:
            assert choice_store._has_locked(file)
    finally:
        child.kill()
        child.join()


def test_a_choice_is_made_where_nothing_can_be_locked(measured, monkeypatch):
    def without_locks(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(choice_store.fcntl, "flock", without_locks)
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
    wanted = Wanted(PolicyOptions(), 1, {}, trainings=2).of(3).without("compile")
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
    assert decide(wanted.of(3, another="subject"), training) == Policy()


def test_a_hopeless_policy_is_left_after_two_steps(measured, monkeypatch):
    """Bfloat16 without units for it: eight steps of it would take longer than the whole measurement may."""
    training, taken = Training(*made(), batches, loss).copied(), {"float32": 1.0, "bfloat16": choice.HOPELESS + 0.01}
    timed = []

    def time_of(stepper, batch):
        timed.append(stepper.policy.precision)
        return taken[stepper.policy.precision]

    monkeypatch.setattr(choice, "_time", time_of)
    wanted = Wanted(PolicyOptions(memory_format="contiguous", compile="off"), 50, {})
    monkeypatch.setattr(choice, "SHARE", 0.0)
    plain, slow = choice.measure(wanted, training)
    assert timed.count("bfloat16") == 2
    assert slow.seconds == (taken["bfloat16"],), "what was seen of it is on record"
    assert len(plain.seconds) == choice.LEAST_ROUNDS
    assert best([plain, slow], 50) == plain.policy
    taken["bfloat16"], timed[:] = choice.HOPELESS, []
    assert [len(sample.seconds) for sample in choice.measure(wanted, training)] == [choice.LEAST_ROUNDS] * 2


def test_compilation_is_tried_where_one_training_is_long_and_wins_by_its_fewer_steps(measured, monkeypatch):
    """The others are timed for as long as a measurement may take, the compiled one five times."""
    monkeypatch.setattr(choice, "_time", lambda stepper, _: 1.0 if stepper.policy.compile else 2.0)
    monkeypatch.setattr(choice, "MOST_SECONDS", 0.01)
    wanted = Wanted(PolicyOptions(precision="float32", memory_format="contiguous"), 10**6, {})
    plain, compiled = choice.measure(wanted, Training(*made(), batches, loss).copied())
    assert len(plain.seconds) > len(compiled.seconds) == choice.LEAST_ROUNDS
    assert decide(wanted, Training(*made(), batches, loss)) == Policy(compile=True)


def test_another_policy_must_surely_be_faster_and_pay_for_its_compilation():
    plain = Sampled(Policy(), (1.0, 1.1, 0.9, 1.0, 1.0))
    noise = Sampled(Policy("bfloat16"), (0.5, 1.9, 0.9, 1.3, 0.8))
    fast = Sampled(Policy(memory_format="channels_last"), (0.8, 0.81, 0.79, 0.8, 0.8))
    compiled = Sampled(Policy(compile=True), (0.7, 0.7, 0.7, 0.7, 0.7), first_seconds=60.0)
    assert best([plain, noise], 1000) == plain.policy
    assert best([plain, noise, fast], 1000) == fast.policy
    assert best([plain, fast, compiled], 500) == fast.policy  # 400 against 350 + 60
    assert best([plain, fast, compiled], 1000) == compiled.policy  # 800 against 700 + 60
    longer = Sampled(plain.policy, plain.seconds * 8)
    assert best([longer, fast, compiled], 1000) == compiled.policy  # the others were timed for more rounds
    assert best([longer, noise], 1000) == plain.policy
