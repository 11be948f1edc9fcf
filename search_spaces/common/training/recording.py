"""What a function of tensors launches on a GPU, recorded as a CUDA graph and from then on launched at once.

A step of a small model is a thousand launches, each of which takes the host longer than the GPU. A replay repeats them
with the addresses and with Python's values of the recording. So arguments are copied to where the recorded ones lay,
random numbers go on from the generator's state, which makes them those of a call without recording, and where anything
else has changed that a recording holds (its `state`), there is another one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from naslab.efficiency.graphs import aside, capture, reason

WARM_UP = 2
"""Calls of a form that run as they are, and make what a recording may not: handles, workspaces, compiled kernels."""
KEPT = 8
"""Forms that are remembered; the oldest makes room."""
MOST = 16
"""Recordings of one function: whoever has more forms than that gains nothing by them."""

State = tuple[Hashable, ...]


@dataclass
class Form:
    """Calls with arguments of the same structure, shapes, strides and number formats, in the same state."""

    structure: TreeSpec
    layouts: list[tuple[Any, ...]]
    state: State
    calls: int = 0
    replay: Callable[[], None] | None = None
    arguments: tuple[Tensor, ...] = ()
    outputs: Any = None


class Recorded:
    """A function that is recorded where all its arguments are tensors on one GPU, and else runs as it is.

    If it cannot be recorded, since the host reads something off the device, say, a warning tells it once.

    Args:
        function: of tensors, or trees of them, and at last of a generator where it is called with one. Whatever else
            it depends on is in `state`; it changes nothing but tensors in place and what the next call sets anew.
        name: of what is recorded, for the warning.
        shared: every replay, of whatever form, writes over the results of the one before, which saves a copy.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, state: Callable[[], State] = tuple, *, shared: bool = False
    ) -> None:
        self._function, self._name, self._state, self._shared = function, name, state, shared
        self._forms: list[Form] = []
        self._left = MOST
        self._stream: torch.cuda.Stream | None = None
        self._generator: torch.Generator | None = None
        self._pool: Any = None

    def __call__(self, *arguments: Any, generator: torch.Generator | None = None) -> Any:
        """The function's result."""
        leaves, structure = tree_flatten(arguments)
        form = self._form(leaves, structure) if on_one_gpu(leaves) else None
        if form is None:
            return self._function(*arguments, *_given(generator))
        form.calls += 1
        if form.calls <= WARM_UP:
            with self._aside(leaves[0].device):
                outputs = self._function(*arguments, *_given(generator))
            if form.calls == WARM_UP and self._state() != form.state:
                self._give_up("a call changes numbers, words or addresses that the model holds, and a replay does not")
            return outputs
        if form.replay is None and not self._record(form, leaves, generator):
            return self._function(*arguments, *_given(generator))
        torch._foreach_copy_(form.arguments, leaves)
        self._replay(form, generator)
        return form.outputs if self._shared else tree_map_only(Tensor, Tensor.clone, form.outputs)

    def _form(self, leaves: list[Tensor], structure: TreeSpec) -> Form | None:
        """That of a call; None: it is not recorded, and shall not be."""
        layouts = [(leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in leaves]
        state = self._state()
        for form in reversed(self._forms):
            if form.layouts == layouts and form.state == state and form.structure == structure:
                return form if form.replay or self._left else None
        if not self._left:
            return None
        self._forms = [*self._forms[1 - KEPT :], Form(structure, layouts, state)]
        return self._forms[-1]

    def _aside(self, device: torch.device) -> AbstractContextManager[None]:
        """On the stream that will be recorded, whose gradients must not come from another."""
        self._stream = self._stream or torch.cuda.Stream(device)
        return aside(self._stream, device)

    def _record(self, form: Form, leaves: list[Tensor], generator: torch.Generator | None) -> bool:
        """Whether it could be recorded."""
        form.arguments = tuple(leaf.clone() for leaf in leaves)
        arguments = tree_unflatten(form.arguments, form.structure)
        if generator is not None:
            self._generator = self._generator or torch.Generator(generator.device)

        def call() -> None:
            form.outputs = self._function(*arguments, *_given(self._generator if generator is not None else None))

        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            form.replay = capture(call, leaves[0].device, self._stream, self._generator, self._pool)
        except RuntimeError as error:
            self._give_up(reason(error))
            return False
        self._left -= 1
        return True

    def _give_up(self, why: str) -> None:
        self._left, self._forms = 0, []
        warnings.warn(f"{self._name} cannot be recorded, and runs without CUDA graphs: {why}", stacklevel=4)

    def _replay(self, form: Form, generator: torch.Generator | None) -> None:
        assert form.replay is not None
        if generator is None:
            form.replay()
            return
        assert self._generator is not None
        self._generator.set_state(generator.get_state())
        form.replay()
        generator.set_state(self._generator.get_state())


def on_one_gpu(leaves: list[Any]) -> bool:
    """Whether these are real tensors on one GPU."""
    return (
        bool(leaves)
        and all(type(leaf) is Tensor and leaf.is_cuda for leaf in leaves)
        and len({leaf.device for leaf in leaves}) == 1
    )


def _given(generator: torch.Generator | None) -> tuple[torch.Generator, ...]:
    return () if generator is None else (generator,)


def state_of(model: nn.Module) -> Callable[[], State]:
    """What a recording of a model's step holds of the model.

    These are the addresses of parameters and buffers, which parameters are trained, and the plain values of modules.
    Modules and names that are put in later are not seen, nor is what lists, other objects and plain tensors hold.
    """
    tensors: list[tuple[dict[str, Any], str]] = [
        (own, name) for m in model.modules() for own in (m._parameters, m._buffers) for name in own
    ]
    common = vars(nn.Module())
    values = [
        (vars(module), name)
        for module in model.modules()
        for name, value in vars(module).items()
        if name == "training" or ((value is None or _is_plain(value)) and name not in common)
    ]

    def state() -> State:
        held = [own.get(name) for own, name in tensors]
        now = [own.get(name) for own, name in values]
        return (
            *(None if tensor is None else tensor.data_ptr() for tensor in held),
            *(None if tensor is None else tensor.requires_grad for tensor in held),
            *(value if _is_plain(value) else None for value in now),  # a tensor that a forward leaves there is no state
        )

    return state


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)
