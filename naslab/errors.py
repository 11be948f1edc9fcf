"""The project's one exception family; the command line turns it into one line and an exit code."""

from __future__ import annotations


class NaslabError(Exception):
    """Something the project can name went wrong; the command line prints it in one line, exit code 1."""


class InputError(NaslabError):
    """What the user gave is wrong and only the user can put it right: exit code 2.

    The message says what was wrong, where, and what is allowed.
    """
