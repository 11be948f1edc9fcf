"""Profiling changes nothing that the caller has: deep snapshots before and after, over all kinds of state."""

import collections
import functools
import io
import queue
import random
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from naslab.efficiency import InputError, profile
from naslab.efficiency.state import Checkpoint

LENGTHS, FILLS = io.StringIO(), io.StringIO()
"""Written by models under test; what was written to a stream is not taken back."""
SEEN, CALLS = [], 0
"""State of models under test in the globals of their functions."""
QUICK = {"min_seconds": 0.0, "max_seconds": 0.001, "train": True, "memory_limit_bytes": 2**30}


def snapshot(thing, seen=None):
    """A value that is equal exactly if everything that can be reached is: written apart from the code under test."""
    seen = {} if seen is None else seen
    if thing is None or isinstance(thing, (int, float, complex, str, bytes, type, types.ModuleType, torch.dtype)):
        return thing
    if id(thing) in seen:
        return ("seen", seen[id(thing)])
    seen[id(thing)] = len(seen)
    go = functools.partial(snapshot, seen=seen)
    if isinstance(thing, torch.Tensor):
        dense = thing.detach().to_dense() if thing.is_sparse else thing.detach()
        kept = dense.clone().contiguous().numpy().tobytes() if dense.device.type == "cpu" else None
        hooks = go(thing._backward_hooks)
        grad = go(thing.grad) if thing.is_leaf else None
        look = (str(thing.dtype), tuple(thing.shape), thing.stride() if not thing.is_sparse else None)
        return ("tensor", look, thing.requires_grad, kept, grad, hooks)
    if isinstance(thing, np.ndarray):
        return ("array", thing.tobytes())
    if isinstance(thing, torch.Generator):
        return ("generator", thing.get_state().numpy().tobytes())
    if isinstance(thing, (random.Random, np.random.Generator)):
        return ("random", repr(thing.getstate() if isinstance(thing, random.Random) else thing.bit_generator.state))
    if isinstance(thing, dict):
        return (
            type(thing),
            [(go(key), go(value)) for key, value in thing.items()],
            go(vars(thing)) if hasattr(thing, "__dict__") else None,
        )
    if isinstance(thing, (list, tuple, collections.deque)):
        return (type(thing), [go(value) for value in thing])
    if isinstance(thing, (set, frozenset)):
        return (type(thing), sorted(map(repr, thing)))
    if isinstance(thing, types.FunctionType):
        return ("function", [go(cell.cell_contents) for cell in thing.__closure__ or ()])
    if isinstance(thing, types.MethodType):
        return ("method", go(thing.__self__))
    if hasattr(thing, "__dict__"):
        return (type(thing), go(vars(thing)))
    return type(thing)


def surroundings():
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        repr(np.random.get_state()),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        repr(torch._dynamo.eval_frame._stance),
    )


class Stateful(nn.Module):
    """A layer, and whatever `change` does to the module and its input at each call."""

    def __init__(self, change, **state):
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.change = change
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x):
        y = self.change(self, x)
        return self.layer(x if y is None else y)


def grow(module, x):
    module.cache = torch.cat([module.cache, x.detach()])
    return module.cache[-4:]


def count_up(module, x):
    module.calls += 1
    module.seen.add(1)


def enqueue(module, x):
    module.memory[:, module.pointer : module.pointer + 4] = x.detach().t()
    module.pointer = (module.pointer + 4) % 64


def smooth(module, x):
    module.mean.lerp_(x.detach().mean(0), 0.1)


def remember(module, x):
    module.hidden = torch.tanh(x + module.hidden)
    return module.hidden


def rescale(module, x):
    module.layer.weight.data.renorm_(2, 0, 0.1)


def draw(module, x):
    module.own.standard_normal(3)
    module.other.random()
    return x + random.random() + np.random.rand() + torch.rand(4, 1) + torch.rand(4, 1, generator=module.third)


def toggle(module, x):
    module.train(not module.training)
    module.layer.bias.requires_grad_(not module.layer.bias.requires_grad)


def swap(module, x):
    module.layers = nn.ModuleList([*module.layers, nn.Linear(16, 16)])
    module.extra = nn.Linear(16, 16)


def hook_up(module, x):
    module.layer.register_forward_hook(lambda *_: None)


def settle_in(module, x):
    if not hasattr(module, "table"):
        module.table = torch.arange(16.0)
    return x + module.table


def closure():
    log, total = [], 0

    def change(module, x):
        nonlocal total
        log.append(x.detach().sum())
        total += 1

    return change


def with_gradients(model):
    model(torch.randn(4, 16)).sum().backward()
    return model


def hooked():
    log, model = [], nn.Linear(16, 16)
    model.register_forward_hook(lambda module, inputs, outputs: log.append(outputs.sum().item()))
    model.weight.register_hook(lambda gradient: log.append(1))
    return model


def spectral():
    return parametrizations.spectral_norm(nn.Linear(16, 16)).train()


def mixed_modes():
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout())
    model[1].eval()
    return model


def set_stance(module, x):
    torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)


MODELS = {
    "cache that grows": lambda: Stateful(grow, cache=torch.randn(8, 16)),
    "counter and set": lambda: Stateful(count_up, calls=torch.tensor(3), seen={7}),
    "counter as a number": lambda: Stateful(lambda m, x: setattr(m, "calls", m.calls + 1), calls=3),
    "list": lambda: Stateful(lambda m, x: m.log.append(x.detach()), log=[1]),
    "list of lists": lambda: Stateful(lambda m, x: m.log[0].append(1), log=[[1]]),
    "mapping": lambda: Stateful(lambda m, x: m.log.update({len(m.log): x}), log={"a": 1}),
    "ordered mapping": lambda: Stateful(
        lambda m, x: m.log.popitem(last=False), log=collections.OrderedDict.fromkeys(range(9999))
    ),
    "default mapping": lambda: Stateful(lambda m, x: m.log[len(m.log)].append(1), log=collections.defaultdict(list)),
    "deque": lambda: Stateful(lambda m, x: m.log.append(x), log=collections.deque([1, 2], maxlen=2)),
    "queue": lambda: Stateful(lambda m, x: m.log.put(1), log=queue.Queue()),
    "queue of keys": lambda: Stateful(enqueue, memory=torch.zeros(16, 64), pointer=0),
    "running mean": lambda: Stateful(smooth, mean=torch.zeros(16)),
    "stateful recurrence": lambda: Stateful(remember, hidden=torch.zeros(4, 16)),
    "weights through .data": lambda: Stateful(rescale),
    "input in place": lambda: Stateful(lambda m, x: x.add_(1) and None if False else x.detach().add_(1)),
    "random states": lambda: Stateful(
        draw, own=np.random.default_rng(0), other=random.Random(0), third=torch.Generator().manual_seed(0)
    ),
    "modes and flags": lambda: Stateful(toggle),
    "module list": lambda: Stateful(swap, layers=nn.ModuleList([nn.Linear(16, 16)])),
    "hooks that are added": lambda: Stateful(hook_up),
    "hooks that write": hooked,
    "lazy table": lambda: Stateful(settle_in),
    "closure": lambda: Stateful(closure()),
    "array": lambda: (
        Stateful(lambda m, x: m.log.__iadd__(1) is None, log=np.zeros(3))
        if False
        else Stateful(lambda m, x: m.log.fill(m.log[0] + 1), log=np.zeros(3))
    ),
    "slots": lambda: Stateful(lambda m, x: setattr(m.box, "n", m.box.n + 1), box=Box(1)),
    "lock": lambda: Stateful(lambda m, x: m.lock.acquire() and m.lock.release(), lock=threading.Lock()),
    "partial": lambda: Stateful(functools.partial(lambda log, m, x: log.append(1), [])),
    "spectral norm": spectral,
    "batch norm, dropout, mixed modes": mixed_modes,
    "batch norm without momentum": lambda: nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16, momentum=None)),
    "gradients there": lambda: with_gradients(nn.Linear(16, 16)),
    "frozen part": lambda: nn.Sequential(nn.Linear(16, 16).requires_grad_(False), nn.Linear(16, 16)),
    "shared weights": lambda: nn.Sequential(*[nn.Linear(16, 16)] * 3),
    "defaults": lambda: Stateful(set_stance),
    "gradients kept as state": lambda: Stateful(lambda m, x: setattr(m, "last", x.grad), last=None),
}


def helper(x):
    global CALLS
    CALLS += 1
    SEEN.append(x.detach())


class OfClass(nn.Module):
    """Counts its calls in its class, and keeps what it saw there."""

    calls, log = 0, []

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        self._note(x)
        return self.layer(x)

    def _note(self, x):
        type(self).calls += 1
        type(self).extra = 1
        self.log.append(1)


@pytest.mark.parametrize(
    "model", [lambda: Stateful(lambda m, x: helper(x)), lambda: Stateful(lambda m, x: SEEN.append(1)), OfClass]
)
def test_state_in_classes_and_globals_comes_back(model):
    before = CALLS, len(SEEN), OfClass.calls, len(OfClass.log)
    found = profile(model(), torch.randn(4, 16), **QUICK)
    assert found.latency_ms is not None
    assert before == (CALLS, len(SEEN), OfClass.calls, len(OfClass.log))
    assert not hasattr(OfClass, "extra")


def test_a_tensor_that_wraps_another_is_put_back_through_it():
    model, inner = nn.Linear(16, 16), torch.zeros(4, 16)
    checkpoint = Checkpoint(held=[Wraps(inner)])
    inner.add_(1)
    checkpoint.restore()
    assert inner.eq(0).all()
    assert profile(model, Wraps(inner), **QUICK).flops.forward == 2 * 4 * 16 * 16


class Wraps(torch.Tensor):
    """A subclass whose own storage has no memory."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        bare = [arg.inner if isinstance(arg, cls) else arg for arg in args]
        out = func(*bare, **(kwargs or {}))
        return cls(out) if isinstance(out, torch.Tensor) else out


class Box:
    __slots__ = ("n",)

    def __init__(self, n):
        self.n = n


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_the_callers_changes(name):
    torch.manual_seed(0)
    model, inputs = MODELS[name](), torch.randn(4, 16)
    before = snapshot((model, inputs)), surroundings()
    profile(model, inputs, **QUICK)
    assert (snapshot((model, inputs)), surroundings()) == before


def test_a_cache_among_the_inputs_is_put_back_before_every_timed_call():
    LENGTHS.truncate(0)

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.scores = nn.Linear(16, 16), None

        def forward(self, x, cache):
            cache.append(x)
            LENGTHS.write(f"{len(cache)} ")
            keys = torch.cat(list(cache))
            return F.softmax(self.query(x) @ keys.t(), -1) @ keys

    cache = [torch.randn(1, 16) for _ in range(32)]
    for seconds in (0.001, 0.05):
        measured = profile(Attends(), {"x": torch.randn(1, 16), "cache": cache}, min_seconds=0.0, max_seconds=seconds)
        assert measured.flops.forward == 2 * 16 * 16 + 2 * 2 * 33 * 16
        assert len(cache) == 32
    assert set(LENGTHS.getvalue().strip("\0").split()) == {
        "33",
        "34",
    }  # 34 only while it is found out that calls change the state


def test_a_cache_that_only_the_first_call_fills_is_timed_filled():
    FILLS.truncate(0)

    class Lazy(nn.Module):
        def forward(self, x):
            if not hasattr(self, "table"):
                self.table = torch.arange(16.0)
                FILLS.write("1")
            return x * self.table

    model = Lazy()
    measured = profile(model, torch.randn(4, 16), only=("latency",), min_seconds=0.0, max_seconds=0.001)
    assert len(measured.latency_ms.samples_ms) >= 10
    assert 1 <= FILLS.getvalue().count("1") <= 2
    assert not hasattr(model, "table")


def test_what_cannot_be_put_back_is_refused_with_its_place():
    model = nn.Linear(16, 16)
    model.stream = (n for n in range(3))
    with pytest.raises(InputError, match=r"model\.stream: a generator cannot be put back"):
        profile(model, torch.randn(4, 16), **QUICK)
    assert next(model.stream) == 0


def test_views_and_resized_and_replaced_tensors_come_back():
    base = torch.arange(12.0)
    held = {"view": base[2:8].view(2, 3), "base": base, "grown": torch.ones(2), "moved": nn.Parameter(torch.ones(2))}
    held["expanded"] = torch.ones(1).expand(4)
    before = snapshot(held)
    checkpoint = Checkpoint(held=held)
    held["view"].mul_(7)
    held["grown"].resize_(40).fill_(3)
    held["moved"].data = torch.zeros(5)
    held["moved"].grad = torch.zeros(5)
    held["new"] = 1
    assert checkpoint.changed()
    checkpoint.restore()
    assert snapshot(held) == before
    assert not checkpoint.changed()
