"""From STUDY on the command line, a study file or a study's name, to its ledger."""

from __future__ import annotations

import os
from pathlib import Path

from naslab.runs.ledger import Ledger
from naslab.runs.study import load_study


def open_study(text: str, storage: str | None = None) -> Ledger:
    """The ledger of the study that `text` names.

    Raises:
        InputError: no such file, study or storage.
    """
    is_file = text.endswith((".yaml", ".yml")) or os.path.isfile(text)
    name = load_study(Path(text)).name if is_file else text
    return Ledger.open(storage, name)
