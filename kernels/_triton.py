"""Everything about Triton that does not belong to one operation: when it is imported, how a kernel becomes one,
how many warps and how large a tile each architecture gets, and what tuning found on this very device.

Kernels stand in the operations' files as plain functions under `@kernel`. Triton is imported at the first launch, so
that a machine without it can import every operation.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from naslab.kernels._cache import cache_folder, replace_file
from naslab.kernels._compiling import hear_triton


def interpreting() -> bool:
    """Whether Triton interprets kernels on the CPU (TRITON_INTERPRET=1, to be set before the first launch)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@cache
def give_triton_a_folder() -> tempfile.TemporaryDirectory[str] | None:
    """Triton keeps what it compiles in `~/.triton`. Where no folder can be made there, it has one until this ends."""
    if {"TRITON_CACHE_DIR", "TRITON_HOME"}.intersection(os.environ):
        return None
    try:
        (Path.home() / ".triton").mkdir(exist_ok=True)
    except (OSError, RuntimeError):
        folder = tempfile.TemporaryDirectory(prefix="naslab-triton-")
        os.environ["TRITON_CACHE_DIR"] = folder.name
        return folder
    return None


class Kernel:
    """A Triton kernel that is compiled when it is first launched; `kernel[grid](arguments)` launches."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.name = function.__name__

    @cached_property
    def jitted(self) -> Any:
        """What `triton.jit` makes of the function, with `tl` and the kernels that it calls in its globals."""
        give_triton_a_folder()
        import triton
        import triton.language

        hear_triton()
        used = self.function.__code__.co_names
        scope = dict(self.function.__globals__) | {"tl": triton.language}
        scope |= {name: value.jitted for name in used if isinstance(value := scope.get(name), Kernel)}
        function = types.FunctionType(self.function.__code__, scope, self.name, self.function.__defaults__)
        function.__annotations__ = self.function.__annotations__
        function.__module__ = self.function.__module__
        function.__qualname__ = self.function.__qualname__
        return triton.jit(function)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        with device_of(arguments):
            self.jitted[grid](*arguments, **constants)


def device_of(arguments: Iterable[Any]) -> AbstractContextManager[None]:
    """Make the tensors' GPU the current one for a while: Triton launches on whichever is current."""
    device = next(value.device for value in arguments if isinstance(value, Tensor))
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def kernel(function: Callable[..., None]) -> Kernel:
    """Declare a Triton kernel. Its body may use `tl` (triton.language) and other kernels of its module."""
    return Kernel(function)


@dataclass(frozen=True)
class Launch:
    """Sizes of one program: `block` elements along the innermost axis, `rows` along the other, and its warps."""

    block: int
    rows: int = 1
    num_warps: int = 4


@cache
def architecture(device: torch.device) -> str:
    """`sm_90`, `gfx942`, ...; "any" where no GPU is involved. Asked on every launch, so remembered."""
    if device.type != "cuda":
        return "any"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def launch(name: str, device: torch.device, defaults: Mapping[str, Launch]) -> Launch:
    """How to launch a kernel here: as tuned on this device, else the default of the architecture.

    Args:
        name: the kernel.
        defaults: by architecture; "gfx" stands for all of AMD's, "any" for the rest.
    """
    _asked[name] = choice = _tried.get(name) or _chosen(name, device, defaults)
    return choice


def _chosen(name: str, device: torch.device, defaults: Mapping[str, Launch]) -> Launch:
    here = architecture(device)
    tuned = {} if here == "any" else _tuned(device_key(device))
    if name in tuned:
        return tuned[name]
    family = "gfx" if here.startswith("gfx") else "any"
    return defaults.get(here) or defaults.get(family) or defaults["any"]


_tried: dict[str, Launch] = {}
_asked: dict[str, Launch] = {}


@contextmanager
def trying(name: str, choice: Launch) -> Iterator[None]:
    """Launch a kernel this way for a while, whatever is remembered."""
    _tried[name] = choice
    try:
        yield
    finally:
        del _tried[name]


@contextmanager
def asked_launches() -> Iterator[dict[str, Launch]]:
    """The launches that are asked for meanwhile, by kernel; filled at the end."""
    _asked.clear()
    asked: dict[str, Launch] = {}
    try:
        yield asked
    finally:
        asked.update(_asked)


@cache
def device_key(device: torch.device) -> str:
    """What a tuned choice depends on: device, torch and Triton."""
    import triton

    name = torch.cuda.get_device_name(device).replace(" ", "-")
    return f"{name}_torch-{torch.__version__}_triton-{triton.__version__}"


def remember(key: str, name: str, choice: Launch) -> None:
    """Keep the tuned choice for a kernel in the user's cache folder."""
    choices = {known: asdict(value) for known, value in _tuned(key).items()} | {name: asdict(choice)}
    replace_file(_tuning_file(key), json.dumps(choices, indent=1).encode())
    _tuned.cache_clear()


@cache
def _tuned(key: str) -> dict[str, Launch]:
    path = _tuning_file(key)
    if not path.exists():
        return {}
    return {name: Launch(**values) for name, values in json.loads(path.read_text(encoding="utf-8")).items()}


def _tuning_file(key: str) -> Path:
    return cache_folder() / "tuning" / f"{key}.json"


def ceil_div(a: int, b: int) -> int:
    """Programs of size b that cover a."""
    return -(-a // b)
