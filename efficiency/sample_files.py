"""Raw samples: every timed call of a profile in one CSV or JSON file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from naslab.errors import InputError
from naslab.whole_file import write_whole

if TYPE_CHECKING:
    from naslab.efficiency.profile_document import EfficiencyProfile

SCHEMA = "naslab.samples/1"
Series: TypeAlias = Sequence[tuple[str, str, int, Sequence[float]]]
"""What was measured, by which clock, at which batch size, and the milliseconds of each call."""
COLUMNS = ("target", "batch_size", "dtype", "measured", "clock", "call", "milliseconds")


def write_samples(profile: EfficiencyProfile, path: Path) -> EfficiencyProfile:
    """Write every timed call to `path`, and return the profile with provenance that names the file.

    `.csv` is one line a call; `.json` has lists by what was measured and the whole provenance.

    Raises:
        InputError: another suffix, nothing was timed, or the file cannot be written.
    """
    check_name(path)
    series = list(timed_series(profile.to_dict()))
    if not series:
        raise InputError("samples: nothing was timed, so there are none; a device other than meta times the model")
    named = replace(profile, provenance=replace(profile.provenance, samples=str(path)))
    try:
        write_whole(path, (_as_csv if path.suffix == ".csv" else _as_json)(named, series))
    except OSError as error:
        raise InputError(f"samples: {path}: cannot be written: {error.strerror or error}") from None
    return named


def check_name(path: Path) -> None:
    """Refuse a name from which the format cannot be told, or a folder that is not there.

    Raises:
        InputError: as said.
    """
    if path.suffix not in (".csv", ".json"):
        raise InputError(f"samples: {path}: name a file that ends in .csv or .json")
    if not path.parent.is_dir():
        raise InputError(f"samples: {path}: there is no folder {path.parent}")


def timed_series(document: Mapping[str, Any]) -> Iterator[tuple[str, str, int, Sequence[float]]]:
    """What was measured, by which clock, at which batch size, and the milliseconds of each call, in order."""
    size, clock = document["batch_size"], document["clock"]
    if document["samples_ms"]:
        yield "inference", clock, size, document["samples_ms"]
    for name, other in document["clocks"].items():
        yield "inference", name, size, other["samples_ms"]
    for part, samples in (document["training"] or {"samples_ms": {}})["samples_ms"].items():
        yield f"training step, {part}", clock, size, samples
    for row in (document["batch_sweep"] or {"rows": []})["rows"]:
        yield "inference", clock, row["batch_size"], row["samples_ms"]


def _as_csv(profile: EfficiencyProfile, series: Series) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for measured, clock, size, samples in series:
        row = (profile.target, size, profile.dtype, measured, clock)
        writer.writerows((*row, call, milliseconds) for call, milliseconds in enumerate(samples))
    return text.getvalue()


def _as_json(profile: EfficiencyProfile, series: Series) -> str:
    return json.dumps(_document(profile, series), indent=1, allow_nan=False)


def _document(profile: EfficiencyProfile, series: Series) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "target": profile.target,
        "dtype": profile.dtype,
        "series": [
            {"measured": measured, "clock": clock, "batch_size": size, "samples_ms": list(samples)}
            for measured, clock, size, samples in series
        ],
        "provenance": profile.provenance.to_dict(),
    }
