"""FLOPs of many models by every counter in use, beside the count by hand.

Each tool is taken at its own convention: FlopCounterMode and calflops count a multiply-add as 2; fvcore, ptflops and
torchinfo as 1, so theirs is doubled. A cell is wrong when it is more than 1 % off, or when the tool fails.

Usage: python benchmarks/counter_table.py [--missing]

With --missing, only the models are counted that the result file lacks; each row says with which versions it was made.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from counter_cases import CASES
from results_file import write_result
from torch import Tensor, nn

from naslab.efficiency import count_forward

TOLERANCE = 0.01


def naslab(model: nn.Module, x: Tensor) -> float:
    return count_forward(model, x).total


def flop_counter_mode(model: nn.Module, x: Tensor) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def fvcore(model: nn.Module, x: Tensor) -> float:
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return 2 * analysis.tracer_warnings("none").total()


def calflops(model: nn.Module, x: Tensor) -> float:
    from calflops import calculate_flops

    return calculate_flops(model, args=[x], print_results=False, print_detailed=False, output_as_string=False)[0]


def ptflops(model: nn.Module, x: Tensor) -> float:
    from ptflops import get_model_complexity_info

    name = "x" if hasattr(model, "function") or hasattr(model, "name") else None
    macs, _ = get_model_complexity_info(
        model if name else Positional(model),
        (1,),
        input_constructor=lambda _: {"x": x},
        as_strings=False,
        print_per_layer_stat=False,
    )
    if macs is None:
        raise RuntimeError("no result")
    return 2 * macs


def torchinfo(model: nn.Module, x: Tensor) -> float:
    from torchinfo import summary

    return 2 * summary(model, input_data=[x], verbose=0).total_mult_adds


class Positional(nn.Module):
    """Gives the only input the name `x`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """The model's output."""
        return self.model(x)


TOOLS: dict[str, Callable[[nn.Module, Tensor], float]] = {
    "naslab": naslab,
    "FlopCounterMode": flop_counter_mode,
    "fvcore": fvcore,
    "calflops": calflops,
    "ptflops": ptflops,
    "torchinfo": torchinfo,
}


def cell(tool: Callable[[nn.Module, Tensor], float], model: nn.Module, x: Tensor, by_hand: float) -> dict[str, Any]:
    try:
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            flops = float(tool(model, x))
    except ModuleNotFoundError:
        raise  # a tool that is not installed has not failed
    except Exception as error:  # noqa: BLE001 - how a tool fails is the finding
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return {"flops": None, "ratio": None, "wrong": True, "failure": reason}
    ratio = flops / by_hand
    return {"flops": flops, "ratio": ratio, "wrong": abs(ratio - 1) > TOLERANCE, "failure": None}


def isolated(name: str, tool: str, by_hand: float) -> dict[str, Any]:
    """A cell found in a process of its own: a tool that fails may leave its patches in torch behind for the next."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        torch.manual_seed(0)
        found = cell(TOOLS[tool], CASES[name].build().eval(), CASES[name].inputs(), by_hand)
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        raise SystemExit(f"{tool} did not come back from {name}")
    found: dict[str, Any] = json.loads(text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--missing", action="store_true")
    path = Path(__file__).parent / "results" / "counter_table.json"
    earlier = json.loads(path.read_text()) if parser.parse_args().missing else {"rows": [], "versions": {}}
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    versions = {
        name: metadata.version(name)
        for name in ("torch", "fvcore", "calflops", "ptflops", "torchinfo", "timm", "transformers")
    }
    known = {row["model"]: {"versions": earlier["versions"], **row} for row in earlier["rows"]}
    rows = []
    for name, case in CASES.items():
        if name in known:
            rows.append(known[name])
            continue
        by_hand = 2 * case.multiply_adds
        cells = {tool: isolated(name, tool, by_hand) for tool in TOOLS}
        rows.append({"model": name, "by_hand": by_hand, "versions": versions, **cells})
        ratios = {t: "failed" if c["ratio"] is None else round(c["ratio"], 3) for t, c in cells.items()}
        print(f"{name:26} {by_hand / 1e9:9.4f} G  {ratios}", flush=True)
    wrong = {tool: sum(row[tool]["wrong"] for row in rows) for tool in TOOLS}
    write_result(
        path, {"schema": "naslab.counter_table/1", "seed": 0, "versions": versions, "wrong": wrong, "rows": rows}
    )


if __name__ == "__main__":
    main()
