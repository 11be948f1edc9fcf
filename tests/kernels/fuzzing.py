"""Any operation at any size, dtype and layout, on any way and under any transform, against its reference in float64.

NASLAB_FUZZ=N tries N random trials (`make fuzz`); without it a few dozen that are always the same.
"""

import os
from dataclasses import dataclass, replace

import torch
from cases import CASES, LAYOUTS, assert_close, outcome
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from naslab.kernels._dispatch import switched

WAYS = ("fused", "reference", "chosen")
CONTEXTS = ("gradients", "no_grad", "autocast", "compile", "export", "vmap")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALF = {torch.bfloat16: 5e-2, torch.float16: 1e-2}
ASKED = int(os.environ.get("NASLAB_FUZZ", "0"))


@dataclass(frozen=True)
class Trial:
    """One call: `wanted` has a bit for each input that is to have a gradient."""

    name: str
    size: int
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    way: str = "fused"
    context: str = "gradients"
    wanted: int = 15
    seed: int = 0


def trials(largest: int = 140, contexts: tuple[str, ...] = CONTEXTS, dtypes: tuple[torch.dtype, ...] = DTYPES):
    return st.builds(
        Trial,
        name=st.sampled_from(list(CASES)),
        size=st.one_of(
            st.integers(0, 20), st.integers(0, largest), st.sampled_from([16, 17, 31, 32, 33, 64, 127, 128])
        ),
        dtype=st.sampled_from(dtypes),
        layout=st.sampled_from(list(LAYOUTS)),
        way=st.sampled_from(WAYS),
        context=st.sampled_from(contexts),
        wanted=st.integers(0, 15),
        seed=st.integers(0, 1000),
    )


def fuzzed(few: int):
    """The settings: `few` trials, the same each time, or the many that are asked for."""
    return settings(
        max_examples=ASKED or few, deadline=None, derandomize=not ASKED, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def inputs(trial: Trial, dtype: torch.dtype, layout: str):
    found = []
    for n, tensor in enumerate(CASES[trial.name].made(trial.size, dtype, trial.seed)):
        there = LAYOUTS[layout](tensor.detach()) if tensor.is_floating_point() and tensor.ndim else tensor.detach()
        found.append(there.requires_grad_(tensor.requires_grad and bool(trial.wanted >> n & 1)))
    return tuple(found)


def check(trial: Trial) -> None:
    case = CASES[trial.name]
    exact, given = inputs(trial, torch.float64, "contiguous"), inputs(trial, trial.dtype, trial.layout)
    with switched("reference"):
        expected = outcome(case, exact)
    tolerance = HALF.get(trial.dtype, case.tolerance)
    if trial.dtype in HALF and trial.name.startswith("mixed_activation"):
        # Plain PyTorch rounds what is activated, and slopes jump at a kink: of standard normals sqrt(2 / pi) times the
        # unit of rounding fall on its other side, each an error of its whole.
        tolerance += (0.8 * torch.finfo(trial.dtype).eps / 2) ** 0.5
    if trial.way == "chosen":
        actual = run(trial, case, given)
    else:
        with switched(trial.way):
            actual = run(trial, case, given)
    if trial.context == "vmap":
        with switched("reference"):
            expected = [case.function(*exact), case.function(*(t / 2 for t in exact))]
    assert_close(actual, expected[: len(actual)], tolerance, trial)


def run(trial: Trial, case, given):
    """What the trial's context gives: the result and its gradients, the result alone, or the results of two calls."""
    match trial.context:
        case "gradients":
            return outcome(case, given)
        case "no_grad":
            with torch.no_grad():
                return [case.function(*given)]
        case "autocast":

            def under_autocast(*tensors):
                with torch.autocast("cpu", torch.bfloat16):
                    return case.function(*tensors)

            return outcome(replace(case, function=under_autocast), given)
        case "compile":
            torch.compiler.reset()
            return outcome(
                replace(case, function=torch.compile(case.function, fullgraph=True, backend="aot_eager")), given
            )
        case "export":
            plain = tuple(t.detach() for t in given)
            program = torch.export.export(Model(case.function), plain)
            assert "naslab" not in str(program.graph)
            return [program.module()(*plain)]
    plain = [t.detach() for t in given]
    return list(torch.func.vmap(case.function)(*(torch.stack([t, t / 2]) for t in plain)))


class Model(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)
