"""Result files: what every benchmark writes beside its figures, so that they can be checked and repeated."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from naslab.efficiency import collect_provenance
from naslab.efficiency.device import resolve_device

RESULTS = Path(__file__).parent / "results"


def read_result(name: str, otherwise: Any = None) -> Any:
    """What `results/NAME.json` holds; `otherwise` where nothing was measured yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


def write_result(path: Path, document: dict[str, Any], device: str = "cpu") -> None:
    """Write `document` with the command and the provenance of this run."""
    facts = collect_provenance(torch.device(device)).to_dict()
    command = " ".join(["python", *sys.argv])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"command": command, "provenance": facts, **document}, indent=1) + "\n", encoding="utf-8"
    )
    print(f"wrote {path}")


Part = Callable[[argparse.Namespace, torch.device], Iterable[Any]]
"""Measures something by the arguments on a device, and yields what there is of it by then."""


def measure_parts(name: str, parts: Mapping[str, Part], parser: argparse.ArgumentParser) -> None:
    """Measure those of the parts that the command line asks for; the result file keeps the others.

    Args:
        name: of the result file, and of its schema.
        parser: with the arguments of the parts' own.
    """
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=list(parts))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    arguments = parser.parse_args()
    before = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    document = {"schema": f"naslab.{name}/1", **{part: before[part] for part in parts if part in before}}
    device = resolve_device(arguments.device)
    for part, measure in parts.items():
        if part in arguments.parts:
            for found in measure(arguments, device):
                document[part] = found
                write_result(arguments.out, document, str(device))
