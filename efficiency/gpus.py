"""Accelerators by name or by the driver's name, and the user's price of an hour on each."""

from __future__ import annotations

import difflib
import math
import os
import re
from pathlib import Path

import yaml

from naslab.efficiency.gpu_table import GPUS, DeviceSpec
from naslab.errors import InputError

__all__ = ["ALIASES", "GPUS", "DeviceSpec", "find_gpu", "match_gpu", "price_per_hour", "prices_path", "read_prices"]

ALIASES: dict[str, str] = {
    "v100": "v100-16",
    "rtx-a6000": "a6000",
    "a100": "a100-80",
    "a100-sxm": "a100-80",
    "a100-pcie": "a100-80-pcie",
    "h100": "h100-sxm",
    "h100-sxm5": "h100-sxm",
    "h200-sxm": "h200",
    "b200-sxm": "b200",
    "tpuv3": "tpu-v3",
    "tpuv4": "tpu-v4",
    **{f"{prefix}{model}": f"rtx-{model}" for model in (3090, 4090, 5090) for prefix in ("", "rtx", "geforce-rtx-")},
}
"""Other names of the same."""

# What drivers call each card, without maker and product line; anything that follows makes it another card.
_DRIVER_NAMES: dict[str, str] = {
    "v100-16": "V100-SXM2-16GB",
    "v100-32": "V100-SXM2-32GB",
    "t4": "T4",
    "a10": "A10",
    "a6000": "RTX A6000",
    "a100-40": "A100-SXM4-40GB",
    "a100-40-pcie": "A100-PCIE-40GB",
    "a100-80": "A100-SXM4-80GB",
    "a100-80-pcie": "A100(-PCIE-80GB| 80GB PCIe)",
    "l4": "L4",
    "l40s": "L40S",
    "h100-pcie": "H100 PCIe",
    "h100-sxm": "H100 80GB HBM3",
    "h200": "H200",
    "b200": "B200",
    "rtx-3090": "RTX 3090",
    "rtx-4090": "RTX 4090",
    "rtx-5090": "RTX 5090",
    "mi250x": "MI250X",
    "mi300x": "MI300X( OAM)?",
    "tpu-v3": "TPU v3",
    "tpu-v4": "TPU v4",
}


def find_gpu(name: str) -> DeviceSpec:
    """The accelerator called `name`: "h100-sxm", "a100-40", "rtx-4090", or an alias such as "h100".

    Raises:
        InputError: no such name; near matches are listed.
    """
    key = re.sub(r"[\s_]+", "-", name.strip().lower())
    if spec := GPUS.get(ALIASES.get(key, key)):
        return spec
    near = difflib.get_close_matches(key, [*GPUS, *ALIASES], n=4, cutoff=0.5)
    known = f"near matches: {', '.join(near)}" if near else f"use {', '.join(GPUS)}"
    raise InputError(f"device: {name!r} is not in the table; {known}")


def match_gpu(device_name: str) -> DeviceSpec | None:
    """The table's entry for what torch or the driver calls a card ("NVIDIA H100 80GB HBM3").

    None where the card is not in the table: variants of a card and partitions of one (MIG) are other devices.
    """
    text = re.sub(r"^(cuda: )?(NVIDIA |AMD )?(Tesla |GeForce |Instinct )?", "", device_name.strip())
    return next((GPUS[name] for name, pattern in _DRIVER_NAMES.items() if re.fullmatch(pattern, text)), None)


def price_per_hour(name: str) -> float | None:
    """What an hour on `name` costs the user, in the user's money; None where the price file does not say.

    Prices are in `$XDG_CONFIG_HOME/naslab/prices.yaml`, a line such as `h100-sxm: 2.5` each. None are built in.

    Raises:
        InputError: the device is unknown, or the file is wrong.
    """
    return read_prices().get(find_gpu(name).name)


def prices_path() -> Path:
    """Where the user's prices are."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "naslab" / "prices.yaml"


def read_prices() -> dict[str, float]:
    """All prices by the table's names; empty without a file.

    Raises:
        InputError: the file is not a mapping of known devices to amounts.
    """
    path = prices_path()
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{path}: write one `device: price per hour` a line, not a {type(found).__name__}")
    return dict(_price(path, device, price) for device, price in found.items())


def _price(path: Path, device: object, price: object) -> tuple[str, float]:
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < math.inf:
        raise InputError(f"{path}: the price of {device} is {price!r}; use a number from 0")
    try:
        return find_gpu(str(device)).name, float(price)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
