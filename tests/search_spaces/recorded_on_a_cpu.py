"""CUDA graphs on a CPU: operations are written down and repeated on the same storages with the same numbers of Python.

Like a capture, the run that is written down changes no tensor and no generator's state.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from naslab.search_spaces.common.training import recording

UNANNOTATED = {"native_batch_norm": (3, 4)}
"""Arguments that an operation writes to although its schema does not say so."""


class Tape(TorchDispatchMode):
    """What a function calls, and what it writes over that is not its own."""

    def __init__(self):
        super().__init__()
        self.calls, self.own, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in written(func, args, kwargs):
            storage = tensor.untyped_storage().data_ptr()
            if storage not in self.own and storage not in self.before:
                self.before[storage] = (tensor.detach(), tensor.detach().clone())
        outputs = func(*args, **kwargs)
        for output in tensors(outputs):
            if not any(
                output.untyped_storage().data_ptr() == t.untyped_storage().data_ptr() for t in tensors((args, kwargs))
            ):
                self.own.add(output.untyped_storage().data_ptr())
        self.calls.append((func, args, kwargs, outputs))
        return outputs

    def undo(self):
        for tensor, value in self.before.values():
            tensor.copy_(value)

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, outputs in self.calls:
                for old, new in zip(tensors(outputs), tensors(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def written(func, args, kwargs):
    """The tensors that an operation writes to."""
    found = [args[i] for i in UNANNOTATED.get(func._schema.name.split("::")[1], ()) if i < len(args)]
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[number] if number < len(args) else kwargs.get(argument.name))
    return tensors(found)


def capture(function, device, stream=None, generator=None, pool=None):
    tape, default = Tape(), torch.get_rng_state()
    state = None if generator is None else generator.get_state()
    with tape:
        function()
    tape.undo()
    torch.set_rng_state(default)
    if generator is not None:
        generator.set_state(state)
    return tape.replay


class Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


def on_a_cpu(monkeypatch):
    """Record there from now on; what is recorded, by name."""
    made = []

    def told(function, device, stream, generator, pool):
        assert pool == "a pool"
        made.append("views" if generator is not None else "step")
        return capture(function, device, stream, generator)

    monkeypatch.setattr(recording, "capture", told)
    monkeypatch.setattr(
        recording, "on_one_gpu", lambda leaves: bool(leaves) and all(type(leaf) is torch.Tensor for leaf in leaves)
    )
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    return made
