"""The project's exceptions, as `naslab.errors` defines them."""

from naslab.errors import InputError, NaslabError

__all__ = ["InputError", "NaslabError"]
