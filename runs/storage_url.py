"""Storage URLs: from user input to a URL, and what of it may be printed: everything but its secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from naslab.errors import InputError

DEFAULT_STORAGE = "naslab-runs/naslab.db"
SQLITE = "sqlite:///"
NAMED = 20
"""So many studies of a storage are named where another was asked for."""

_PASSWORD = re.compile(r"(?s)(?<=://)([^:/@]*):(.*)@")
"""As SQLAlchemy reads a URL: everything between the first colon and an @, whatever stands in it."""
_NO_PORT = re.compile(r"(?<=://)([^:/@]*):(?!\d*(?:[/?#]|$))([^@/?#]*)(?=[/?#]|$)")
"""A password whose host was forgotten stands where a port would."""
_SECRET = "pass|pwd|secret|token|key|auth|cred"
_NAMED = re.compile(rf"(?i)([?&][^=&]*(?:{_SECRET}|options)[^=&]*=)([^&#\s]*)")


def storage_url(text: str | None) -> str:
    """A URL as it is; anything else is the path of an SQLite file."""
    text = text or DEFAULT_STORAGE
    return text if "://" in text else f"{SQLITE}{text}"


def is_secret(name: str) -> bool:
    """Whether what is called so is likely to be one: a variable such as WANDB_API_KEY."""
    return re.search(_SECRET, name, re.IGNORECASE) is not None


def shown(url: str) -> str:
    """The URL as it may be printed: without a password."""
    for pattern in (_PASSWORD, _NO_PORT):
        url = pattern.sub(r"\1:***" + "@" * (pattern is _PASSWORD), url)
    return _NAMED.sub(r"\1***", url)


def starred(text: str) -> str:
    """The same with a star for each byte of a password, so that it stays as long."""
    for pattern in (_PASSWORD, _NO_PORT, _NAMED):
        for match in reversed(list(pattern.finditer(text))):
            begin, end = match.span(2)
            text = text[:begin] + "*" * len(os.fsencode(match[2])) + text[end:]
    return text


def without_secrets(text: str, url: str) -> str:
    """What a database's driver says, without the passwords of `url`; some repeat it, or parts of it.

    A password is left alone inside a longer word: the storage called naslab.db has not told the password `lab`.
    """
    text = text.replace(url, shown(url))
    for secret in _secrets(url):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def _secrets(url: str) -> list[str]:
    """What must not be printed, the longest first: as it stands in the URL, as it is meant, and as others encode it."""
    found = [match[2] for pattern in (_PASSWORD, _NO_PORT, _NAMED) for match in pattern.finditer(url)]
    meant = {decode(raw) for raw in found for decode in (unquote, unquote_plus)}
    encoded = {encode(secret, safe="") for secret in meant for encode in (quote, quote_plus)}
    return sorted({*found, *meant, *encoded} - {""}, key=len, reverse=True)


def no_study(url: str, name: str, known: Sequence[str]) -> InputError:
    """What to raise where a storage has no study of that name: it names those that there are, of many the most like."""
    named = sorted(known)
    if len(known) > NAMED:
        near = get_close_matches(name, named, n=NAMED)
        named = [*near, *(other for other in named if other not in near)][:NAMED]
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return InputError(f"{shown(url)}: no study named {name!r}; it has {', '.join(named) or 'none'}{more}")
