"""The report's section on kernels: a table measured by `naslab bench kernels` on any device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from naslab.errors import InputError
from naslab.runs.output import significant_digits
from naslab.runs.report.markup import join, note, table
from naslab.runs.report.section import Section

SCHEMA = "naslab.bench/1"


def load_table(path: Path) -> dict[str, Any]:
    """A document of `naslab bench kernels --json`, or a result file that holds one.

    Raises:
        InputError: no such file, not JSON, or another document.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--kernels {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValueError as error:
        raise InputError(f"--kernels {path}: not valid JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(f"--kernels {path}: not a table of kernels; write one with naslab bench kernels --json")
    return document


def kernels(document: Mapping[str, Any]) -> Section:
    """The table as it was measured."""
    facts = document["provenance"]
    bandwidth = document["copy_bytes_per_second"] / 1e9
    times = ("eager_ms", "compile_ms", "ours_ms", "limit_ms")
    rows = [
        [row["kernel"], row["shape"], row["dtype"], *(_ms(row[name]) for name in times), _share(row)]
        for row in document["rows"]
    ]
    columns = ("Kernel", "Shape", "Type", "#Eager ms", "#torch.compile ms", "#Ours ms", "#Limit ms", "#Limit over ours")
    source = f"Forward and backward on {facts['device']}, torch {facts['torch']}, {facts['utc'][:10]}; "
    limit = f"the limit is the least traffic at the measured copy bandwidth of {bandwidth:.1f} GB/s."
    return Section("kernels", "Kernels", join([table(columns, rows), note(source + limit)]))


def _ms(value: float | None) -> str:
    return "not measured" if value is None else significant_digits(value)


def _share(row: Mapping[str, Any]) -> str:
    if not row["correct"]:
        return "wrong result"
    return "not measured" if row["share"] is None else f"{row['share']:.0%}"
