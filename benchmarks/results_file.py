"""Result files: what every benchmark writes beside its figures, so that they can be checked and repeated."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from naslab.efficiency import collect_provenance

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
