"""Networks of transformers with weights from the hub or a folder, and what their checkpoints lack."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging

from naslab.errors import InputError
from naslab.search_spaces.data.packages import cannot_load, model_folder, with_weights


def load_pretrained(auto_class: Any, name: str, where: str) -> Any:
    """The network `name` as `auto_class` (AutoModelForSeq2SeqLM, ...) has it, whole.

    Raises:
        InputError: see `read_pretrained`; or its checkpoint lacks weights.
    """
    network, missing = read_pretrained(auto_class, name, where)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{where}: {name!r} has no {missing[0]}{more}, which {type(network).__name__} needs; use a checkpoint with "
            "that head"
        )
    return network


def read_pretrained(auto_class: Any, name: str, where: str, **options: Any) -> tuple[Any, list[str]]:
    """The network on the CPU in float32, and the weights that its checkpoint lacks.

    transformers fills these with random numbers and goes on: whether that is an error is the caller's to say.

    Args:
        where: the option that gives the name.
        options: more of `from_pretrained`.

    Raises:
        InputError: there is no such network, or it is of another kind.
    """
    if not with_weights():
        return _with_random_weights(auto_class, name, where, **options), []
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of what it loaded
    try:
        network, loading = auto_class.from_pretrained(
            model_folder(name), dtype="float32", output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_load(where, name, error) from None
    finally:
        logging.set_verbosity(verbosity)
    return network, _lacking(network, set(loading["missing_keys"]))


def _with_random_weights(auto_class: Any, name: str, where: str, **options: Any) -> Any:
    config = options.pop("config", None)
    make = auto_class.from_config if hasattr(auto_class, "from_config") else auto_class._from_config
    try:
        return make(config or AutoConfig.from_pretrained(model_folder(name)), dtype=torch.float32, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_load(where, name, error) from None


def _lacking(network: nn.Module, missing: set[str]) -> list[str]:
    """Those of the missing weights that are not one with a weight that is there, as a tied head's are."""
    names: dict[int, set[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    tied = {name for group in names.values() if group - missing for name in group}
    return sorted(missing - tied)
