"""Networks of transformers with weights from the hub or a folder, whole or not at all."""

from __future__ import annotations

from typing import Any

from naslab.errors import InputError


def load_pretrained(auto_class: Any, name: str, where: str) -> Any:
    """The network `name` as `auto_class` (AutoModelForSeq2SeqLM, ...) has it, in float32.

    transformers fills what a checkpoint lacks with random numbers and goes on; here that is an error.

    Raises:
        InputError: there is none, it is of another kind, or weights are missing; begins with `where`.
    """
    try:
        network, found = auto_class.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: cannot load {name!r}: {' '.join(str(error).split())[:200]}") from None
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{where}: {name!r} has no {missing[0]}{more}, which {type(network).__name__} needs; use a checkpoint with "
            "that head"
        )
    return network.float()
