"""Folders of images or videos, one a class, in the folders of their splits; what is not read is counted and said."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.splits import by_split

NAMED = 5
"""How many of the files or folders left out a warning names."""
OF_THE_FILE_SYSTEM = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
"""Folders that archives, network drives and file systems make."""
TEST_SHARE = 5
"""Where no part is set apart for the test, one of so many files is."""


@dataclass(frozen=True)
class Labelled:
    """Files and the class of each, int64."""

    paths: Sequence[Path]
    labels: Tensor

    def take(self, indices: Tensor) -> Labelled:
        """The chosen files, in that order."""
        return Labelled([self.paths[i] for i in indices.tolist()], self.labels[indices])


@dataclass(frozen=True)
class ClassFolders:
    """What class folders hold; `validation` is None where no folder is set apart for it."""

    classes: tuple[str, ...]
    train: Labelled
    validation: Labelled | None
    test: Labelled


def class_folders(root: Path | None, kind: str, suffixes: Collection[str], seed: int) -> ClassFolders:
    """Files of root/SPLIT/CLASS/..., or of root/CLASS/..., where a fifth, chosen by `seed`, is the test part.

    Splits may have any of the names in `SPLIT_NAMES`. If only one is there beside the training part, it is the test
    part. Hidden files and folders are skipped; other files, and classes that training does not know, are ignored with
    a warning.

    Args:
        kind: what the files are, for errors.
        suffixes: of such files, in lower case.

    Raises:
        InputError: a missing folder, fewer than two classes, a class without files, or one that holds folders alone.
    """
    if root is None:
        raise InputError("task.dataset.root: missing; a folder data set needs the folder's path")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; task.dataset.root names the folder that holds train/ and val/")
    splits = by_split(subfolders(root))
    others = [folder for folder in subfolders(root) if folder not in splits.values()]
    if "train" in splits and len(splits) > 1:
        _say_ignored(root, "folders that are no split", [folder.name for folder in others])
        return _splits(splits, kind, suffixes)
    if splits and not others:
        names = " and ".join(f"{folder.name}/" for folder in splits.values())
        raise InputError(f"{root}: holds {names} alone; splits are train/ with val/ or test/, else one folder a class")
    classes = _class_names(root)
    whole = _files(root, classes, kind, suffixes)
    order = torch.randperm(len(whole.paths), generator=torch.Generator().manual_seed(seed))
    cut = max(1, len(order) // TEST_SHARE)
    return ClassFolders(classes, whole.take(order[cut:]), None, whole.take(order[:cut]))


def hidden(name: str) -> bool:
    """Whether a file or folder is there for the file system's sake (.DS_Store, ._photo.png, __MACOSX)."""
    return name.startswith(".") or name in OF_THE_FILE_SYSTEM


def subfolders(folder: Path) -> list[Path]:
    """The folders in it, by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not hidden(path.name))


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """All folders below and including `folder`, with the names of their files, hidden ones left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not hidden(name))
        yield Path(place), [name for name in files if not hidden(name)]


def _splits(splits: Mapping[str, Path], kind: str, suffixes: Collection[str]) -> ClassFolders:
    classes = _class_names(splits["train"])
    parts = {split: _files(folder, classes, kind, suffixes) for split, folder in splits.items()}
    for folder in splits.values():
        unknown = [path.name for path in subfolders(folder) if path.name not in classes]
        _say_ignored(folder, f"class folders that {splits['train'].name}/ does not have", unknown)
    if len(parts) == 3:
        return ClassFolders(classes, parts["train"], parts["validation"], parts["test"])
    test = parts.get("test") or parts["validation"]
    return ClassFolders(classes, parts["train"], None, test)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in subfolders(folder))
    if len(names) < 2:
        raise InputError(
            f"{folder}: holds {len(names)} class folders; a folder data set needs one per class, two or more"
        )
    return names


def _files(folder: Path, classes: tuple[str, ...], kind: str, suffixes: Collection[str]) -> Labelled:
    paths: list[Path] = []
    labels: list[int] = []
    loose = sorted(p.name for p in folder.iterdir() if not p.is_dir() and p.suffix.lower() in suffixes)
    _say_ignored(folder, f"{kind} that lie in no class folder", [name for name in loose if not hidden(name)])
    ignored: list[str] = []
    for label, name in enumerate(classes):
        places = list(walk(folder / name)) if (folder / name).is_dir() else []
        if _holds_classes(places, suffixes):
            raise InputError(
                f"{folder / name}: holds no {kind} but folders; the {kind} of a class lie in its own folder, and split "
                "folders are called train, val and test"
            )
        files = [place / file for place, names in places for file in names]
        found = sorted(path for path in files if path.suffix.lower() in suffixes)
        if not found:
            raise InputError(f"{folder / name}: no {kind}; each class of the training folder needs some in every split")
        ignored += sorted(f"{name}/{path.name}" for path in files if path.suffix.lower() not in suffixes)
        paths += found
        labels += [label] * len(found)
    _say_ignored(folder, f"files that are no {kind}", ignored)
    return Labelled(paths, torch.tensor(labels))


def _holds_classes(places: Sequence[tuple[Path, list[str]]], suffixes: Collection[str]) -> bool:
    """Whether a folder, walked, has folders in place of files: nothing else, or several of them beside what is no file
    of a class, such as a list of labels. One folder (CLASS/images) beside it is how Tiny ImageNet lies.
    """
    if len(places) < 2 or any(Path(name).suffix.lower() in suffixes for name in places[0][1]):
        return False
    return not places[0][1] or len(subfolders(places[0][0])) > 1


def _say_ignored(folder: Path, what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        warnings.warn(f"{folder}: {len(names)} {what} ignored: {', '.join(names[:NAMED])}{more}", stacklevel=5)
