"""A CUDA device that is not there: tensors without numbers on cuda:0, and a record of all that crosses."""

from __future__ import annotations

import traceback
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from naslab.search_spaces.data import ahead
from naslab.search_spaces.data.placing import constant

CUDA = torch.device("cuda:0")
READ = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.is_nonzero.default}


class Crossings(TorchDispatchMode):
    """Where the host reads a number off the device, or a tensor goes from one to the other, while `watching`."""

    def __init__(self):
        super().__init__()
        self.found, self.watching = [], False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        given = {t.device.type for t in tensors}
        fake = any(isinstance(t, FakeTensor) for t in tensors)
        if func in READ and fake:
            self._note(func)
            return {torch.bool: True, torch.int64: 1}.get(args[0].dtype, 1.0)
        if not fake and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            with unset_fake_temporarily():  # the host's own work is done
                return func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor and fake:
            if any(index is not None and index.dtype == torch.bool for index in args[1]):
                self._note(func)  # how many are chosen, the host has to know
            args = (args[0], [index for mask in args[1] for index in all_of(mask)])
        if func is torch.ops.aten.nonzero.default and fake:
            self._note(func)
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.int64)
        result = func(*args, **kwargs)
        made = {t.device.type for t in tree_leaves(result) if isinstance(t, torch.Tensor)}
        awaited = not kwargs.get("non_blocking")
        if awaited and len(given | made) > 1 and func.namespace == "aten" and ("copy" in func.name() or not given):
            self._note(func)
        return result

    def _note(self, func):
        if self.watching:
            ours = [
                f for f in traceback.extract_stack() if "/search_spaces/" in f.filename and "/tests/" not in f.filename
            ]
            place = f"{ours[-1].filename.rpartition('search_spaces/')[2]}:{ours[-1].lineno}" if ours else "?"
            self.found.append(f"{func.name()} at {place}: {ours[-1].line if ours else ''}")


def all_of(index):
    """A mask without numbers, as the indices that it gives where it is true everywhere."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [index.new_zeros(index.numel(), dtype=torch.int64) for _ in index.shape]


class CpuGenerator(torch.Generator):
    """Generators of devices that are not there are the CPU's; nothing is drawn from them."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.named = torch.device(device)
        return made

    @property
    def device(self):
        return self.named


def moved(module, device):
    """`module.to(device)`, which cannot put a tensor without numbers in the place of one that has some."""
    if torch.device(device) == CUDA:
        there = {}
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and not isinstance(parameter, FakeTensor):
                    there.setdefault(parameter, nn.Parameter(parameter.detach().to(CUDA), parameter.requires_grad))
                    part._parameters[name] = there[parameter]
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = buffer.to(CUDA)
    return module


@contextmanager
def fake_cuda(monkeypatch):
    """Everything inside may use cuda:0; yields what records crossings."""
    monkeypatch.setattr(torch, "Generator", CpuGenerator)
    monkeypatch.setattr(nn.Module, "to", moved)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    constant.cache_clear()
    monkeypatch.setattr(torch.random, "fork_rng", lambda *a, **k: nullcontext())
    monkeypatch.setattr(ahead, "_prepared", map)  # the device that is not there is of this thread
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Crossings() as crossings:
            yield crossings
    finally:
        constant.cache_clear()
