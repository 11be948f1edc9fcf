"""CUDA graphs of training steps and random views, on a CPU that repeats operations as a graph would."""

import copy
import gc
import weakref

import pytest
import torch
from recorded_on_a_cpu import on_a_cpu
from small_tasks import IMAGES, TRANSLATION
from small_tasks import TASKS as SMALL
from small_training import batches, equal_states, loss, made
from torch import nn

from naslab.efficiency.graphs import capture
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.training import choice, loop
from naslab.search_spaces.common.training.policy import Policy, PolicyOptions
from naslab.search_spaces.common.training.recording import KEPT, MOST, WARM_UP, Recorded, on_one_gpu, state_of
from naslab.search_spaces.common.training.step import Stepper
from naslab.search_spaces.data import Augmentation, AugmentationOptions
from naslab.search_spaces.find import make_task

TASKS = SMALL | {
    "simclr in parts": ("nasiam", {"framework": "simclr"}, IMAGES | {"policy": {"accumulation": 2}}),
    "mocov2 in parts": ("nasiam", {"framework": "mocov2", "queue_size": 70}, IMAGES | {"policy": {"accumulation": 3}}),
    "token reduction": ("token_reduction", {}, IMAGES | {"anneal": False}),
}
del TASKS["pmlm that writes"]  # it trains as "pmlm" does


def trained(name, graphs, precision="float32"):
    target, options, values = TASKS[name]
    space, _, preset = target.partition(":")
    parts = values.get("policy", {}).get("accumulation", 1)
    policy = {**values.get("policy", {}), "cuda_graphs": "auto" if graphs else "off"}
    task = make_task(find_space(space, preset or "tiny", options), {**values, "policy": policy}, torch.device("cpu"))
    seed_everything(0)
    model = task.space.build(task.space.reference)
    recompute = values.get("policy", {}).get("recompute", False)
    chosen = Policy(precision, cuda_graphs=graphs, accumulation=parts, recompute=recompute)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "policy_for", lambda wanted, training: chosen)
        losses = [rung.facts["loss"] for rung in task.train(model, 5)]
    return losses, model


@pytest.mark.parametrize("name", TASKS)
def test_a_recorded_training_is_the_eager_one(name, monkeypatch):
    """The same operations with the same numbers: whatever a step holds in Python would be that of the recording."""
    losses, eager = trained(name, graphs=False)
    recorded = on_a_cpu(monkeypatch)
    found, model = trained(name, graphs=True)
    assert found == losses
    assert equal_states(model, eager)
    assert "step" in recorded
    assert ("views" in recorded) == (name.split()[0] in {"simclr", "simsiam", "byol", "mocov2", "mae", "token"})


def test_in_bfloat16_the_weights_are_rounded_in_each_replay(monkeypatch):
    losses, _ = trained("simclr", graphs=False, precision="bfloat16")
    on_a_cpu(monkeypatch)
    assert trained("simclr", graphs=True, precision="bfloat16")[0] == losses


def test_a_keep_rate_that_falls_is_no_recording(monkeypatch):
    monkeypatch.setitem(TASKS, "falling", ("token_reduction", {}, IMAGES | {"anneal": True, "batch_size": 40}))
    losses, _ = trained("falling", graphs=False)
    on_a_cpu(monkeypatch)
    assert trained("falling", graphs=True)[0] == losses


def doubled(tensor):
    return {"twice": 2 * tensor}


def test_calls_run_as_they_are_until_the_third_of_a_form(monkeypatch):
    recorded, calls = on_a_cpu(monkeypatch), []
    function = Recorded(lambda x: (calls.append(x), doubled(x))[1], "it")
    for number in range(6):
        assert function(torch.full((2,), float(number)))["twice"].tolist() == [2.0 * number] * 2
    assert len(calls) == WARM_UP + 1
    assert len(recorded) == 1
    function(torch.ones(3))
    function(torch.ones(2, dtype=torch.float64))
    function(torch.ones(2, 2).t()[0])
    assert len(recorded) == 1, "other shapes, number formats and strides are other forms"


def test_results_last_unless_they_are_shared(monkeypatch):
    on_a_cpu(monkeypatch)
    for shared in (False, True):
        function = Recorded(doubled, "it", shared=shared)
        results = [function(torch.tensor(float(number)))["twice"] for number in range(6)]
        kept = [float(result) for result in results]
        assert kept[-1] == 10
        assert (kept == [0, 2, 4, 6, 8, 10]) == (not shared)


def test_random_numbers_go_on_from_the_callers_generator(monkeypatch):
    recorded = on_a_cpu(monkeypatch)
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    augmentation = Augmentation(AugmentationOptions(), (0.5,) * 3, (0.5,) * 3)
    function = Recorded(augmentation, "views")
    for seed in (0, 1):  # a generator of its own for each epoch
        plain, other = (torch.Generator().manual_seed(seed) for _ in range(2))
        for _ in range(4):
            assert torch.equal(function(images, generator=other), augmentation(images, plain))
        assert torch.equal(plain.get_state(), other.get_state())
    assert recorded == ["views"]


def test_what_a_model_holds_beside_its_weights_makes_another_recording(monkeypatch):
    recorded = on_a_cpu(monkeypatch)
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))
    model[1].scale = 1.0

    function = Recorded(lambda x: model(x) * model[1].scale, "it", state_of(model))

    def called():
        x = torch.randn(3, 2)
        for _ in range(WARM_UP + 2):
            assert torch.equal(function(x), model(x) * model[1].scale)
        return len(recorded)

    assert called() == 1
    model[1].scale = 2.0
    assert called() == 2
    model[0].weight.data = model[0].weight.data.clone()
    assert called() == 3
    model.eval()
    assert called() == 4
    model[0].weight.data.mul_(2)
    assert called() == 4, "numbers change in place"


class Keeping(nn.Module):
    """Holds more than weights."""

    def __init__(self):
        super().__init__()
        self.last, self.odd = None, False
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("other", torch.ones(3))

    def forward(self, x):
        return self.second(self.first(x))


def stepped(forward, graphs, steps=12, before=lambda model, number: None):
    """Losses of steps of a model."""
    torch.manual_seed(0)
    model = Keeping()
    step = Stepper(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        lambda model, x: forward(model, x).square().mean(),
        Policy(cuda_graphs=graphs),
    )
    losses = []
    for number in range(steps):
        before(model, number)
        losses.append(float(step(torch.randn(4, 3))["loss"]))
    return losses


def test_a_tensor_that_a_forward_leaves_behind_is_no_state(monkeypatch):
    """It is another at each step, and may hold a graph."""

    def forward(model, x):
        model.last = model(x)
        return model.last

    eager, recorded = stepped(forward, graphs=False), on_a_cpu(monkeypatch)
    assert stepped(forward, graphs=True) == eager
    assert recorded == ["step"]
    model = Keeping()
    state = state_of(model)
    empty = state()
    forward(model, torch.randn(4, 3))
    assert state() == empty


def toggled(model, x):
    model.odd = not model.odd
    return model(x) * (2 if model.odd else 1)


def exchanged(model, x):
    model.mean, model.other = model.other, model.mean
    return model(x - model.mean)


@pytest.mark.parametrize("forward", [toggled, exchanged])
def test_what_a_call_changes_beside_tensors_in_place_is_no_recording(forward, monkeypatch):
    """A replay would not change it."""
    eager, recorded = stepped(forward, graphs=False), on_a_cpu(monkeypatch)
    with pytest.warns(UserWarning, match="a training step cannot be recorded, .*: a call changes numbers, words or"):
        assert stepped(forward, graphs=True) == eager
    assert not recorded


def test_parameters_that_are_frozen_later_get_no_gradients(monkeypatch):
    def freeze(model, number):
        model.first.requires_grad_(number < 6)

    eager, recorded = stepped(Keeping.forward, graphs=False, before=freeze), on_a_cpu(monkeypatch)
    assert stepped(Keeping.forward, graphs=True, before=freeze) == eager
    assert recorded == ["step", "step"]


@pytest.mark.parametrize("graphs", [False, True])
def test_gradients_of_what_is_trained_beside_the_model_do_not_add_up(graphs, monkeypatch):
    on_a_cpu(monkeypatch)
    scale, model = nn.Parameter(torch.ones(())), nn.Linear(3, 1)
    optimiser = torch.optim.SGD([*model.parameters(), scale], 0.0)
    step = Stepper(model, optimiser, lambda model, x: (model(x) * scale).sum(), Policy(cuda_graphs=graphs))
    for _ in range(5):
        x = torch.randn(4, 3)
        step(x)
        torch.testing.assert_close(scale.grad, model(x).sum())


def test_what_is_computed_again_is_not_recorded(monkeypatch):
    """Its random numbers are those of the first time, which no graph puts back."""
    monkeypatch.setitem(TASKS, "again", ("dysi", {}, TRANSLATION | {"policy": {"recompute": True}}))
    eager, _ = trained("again", graphs=False)
    recorded = on_a_cpu(monkeypatch)
    assert trained("again", graphs=True)[0] == eager
    assert not recorded
    assert not choice.records(PolicyOptions(recompute=True), torch.device("cuda"))


def test_what_was_recorded_is_still_replayed_when_nothing_more_is(monkeypatch):
    recorded = on_a_cpu(monkeypatch)
    calls = []
    function = Recorded(lambda x: (calls.append(len(x)), doubled(x))[1], "it")
    for size in range(1, MOST + 3):
        for _ in range(WARM_UP + 1):
            function(torch.ones(size))
    assert len(recorded) == MOST
    del calls[:]
    function(torch.ones(MOST + 2))
    assert function(torch.full((MOST,), 3.0))["twice"].tolist() == [6.0] * MOST
    assert calls == [MOST + 2]


def test_many_forms_are_not_recorded_without_end(monkeypatch):
    recorded = on_a_cpu(monkeypatch)
    function = Recorded(doubled, "it")
    for size in range(1, 3 * MOST):
        for _ in range(WARM_UP + 1):
            assert function(torch.ones(size))["twice"].tolist() == [2.0] * size
    assert len(recorded) == MOST
    assert len(function._forms) == KEPT


def test_what_cannot_be_recorded_runs_and_says_so_once(monkeypatch):
    on_a_cpu(monkeypatch)

    def refused(*args):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr("naslab.search_spaces.common.training.recording.capture", refused)
    function = Recorded(doubled, "a training step")
    number = torch.tensor(3.0)
    for _ in range(WARM_UP):
        assert function(number)["twice"] == 6
    with pytest.warns(UserWarning, match="a training step cannot be recorded, .* stream is capturing$"):
        assert function(number)["twice"] == 6
    assert function(number)["twice"] == 6, "and says nothing more"


def test_only_tensors_on_one_gpu_are_recorded():
    assert not on_one_gpu([])
    assert not on_one_gpu([torch.ones(2)])
    assert not on_one_gpu([torch.ones(2), 3])


class Gpu:
    """torch.cuda, and the default generator of its device."""

    def __init__(self):
        self.done = []
        self.default_generators = [self]

    def current_stream(self, device):
        return "before"

    def current_device(self):
        return 0

    def set_stream(self, stream):
        self.done.append(stream)

    def clone_state(self):
        return "state"

    def graphsafe_set_state(self, state):
        self.done.append(state)

    def register_generator_state(self, generator):
        self.done.append("registered")

    def CUDAGraph(self):
        return self

    def graph(self, graph, pool, stream, capture_error_mode):
        raise RuntimeError("operation not permitted")


def test_a_capture_that_breaks_off_gives_back_stream_and_generators():
    cuda = Gpu()
    with pytest.raises(RuntimeError, match="operation not permitted"):
        capture(lambda: None, torch.device("cuda", 0), generator=cuda, cuda=cuda)
    assert cuda.done == ["registered", "before", "state", "state"]


def test_steps_of_two_policies_on_one_model_do_not_share_gradients(monkeypatch):
    """As `auto` measures them: one model, one optimiser, in turn."""
    on_a_cpu(monkeypatch)
    model, optimiser = made()
    plain, plain_optimiser = copy.deepcopy((model, optimiser))
    steppers = [Stepper(model, optimiser, loss, Policy(cuda_graphs=graphs)) for graphs in (True, False)]
    own = Stepper(plain, plain_optimiser, loss, Policy())
    for number, batch in enumerate(batches(model, optimiser, 0, steps=10)):
        assert steppers[number % 2](batch)["loss"] == own(batch)["loss"]
    assert equal_states(model, plain)


def test_auto_tries_recordings_on_a_gpu_alone(monkeypatch):
    model, optimiser = made()
    training = choice.Training(model, optimiser, batches, loss)
    cpu = choice._compared(PolicyOptions(), training)
    assert [len(group) for group in cpu] == [4]
    monkeypatch.setattr(choice.Training, "device", torch.device("cuda", 0))
    eager, *recorded = choice._compared(PolicyOptions(), training)
    assert [str(policy) for (policy,) in recorded] == [f"{policy} CUDA graphs" for policy in eager]
    assert choice._compared(PolicyOptions(cuda_graphs="on"), training) == recorded
    assert choice._compared(PolicyOptions(cuda_graphs="off"), training) == [eager]
    assert choice.WARM_UP_STEPS >= WARM_UP, "what is timed is replays"


def test_a_recordings_memory_is_given_back_with_its_stepper(monkeypatch):
    """No cycle of references holds it until some later collection."""
    on_a_cpu(monkeypatch)
    for graphs in (False, True):
        model, optimiser = made()
        stepper = Stepper(model, optimiser, loss, Policy(cuda_graphs=graphs))
        for batch in batches(model, optimiser, 0):
            stepper(batch)
        known = weakref.ref(stepper)
        gc.collect()
        gc.disable()
        try:
            del stepper
            assert known() is None
        finally:
            gc.enable()
