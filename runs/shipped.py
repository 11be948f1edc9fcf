"""The studies that come with naslab: `naslab run quickstart` works wherever it is installed."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from naslab.errors import InputError

FOLDER = Path(__file__).resolve().parent.parent / "studies"


def shipped_studies() -> list[str]:
    """Names of the studies that ship, each a file of the folder studies/."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_study_file(path: Path) -> Path:
    """`path` where there is such a file, else the study that ships under this name.

    Raises:
        InputError: neither is there.
    """
    try:
        if path.is_file():
            return path
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{str(path)[:100]}: cannot be read: {error.strerror}") from None
    names = shipped_studies()
    if str(path) in names:
        return FOLDER / f"{path}.yaml"
    near = get_close_matches(path.stem, names, n=1)
    meant = f"; did you mean {near[0]}, which ships with naslab?" if near else ""
    what = "a folder, not a study file" if path.is_dir() else "no such study file"
    raise InputError(f"{path}: {what}{meant}")
