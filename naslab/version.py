"""The installed version of the project."""

from importlib import metadata


def naslab_version() -> str:
    """The installed version, or "source" where it is not installed."""
    try:
        return metadata.version("naslab")
    except metadata.PackageNotFoundError:
        return "source"
