"""Which option of a study the data that is read belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from naslab.errors import InputError


@contextmanager
def data_of(option: str) -> Iterator[None]:
    """Name the option in what is wrong with its data: readers, who do not know it, write `data` and `data.files`.

    Raises:
        InputError: what a reader raises, with the option's name.
    """
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"\Adata(?=[.:])", option, str(error))) from None
