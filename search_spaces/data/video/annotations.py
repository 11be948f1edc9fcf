"""The annotation files of MSR-VTT, MSVD, DiDeMo and TGIF-QA as they are published, and of a user's own folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from naslab.errors import InputError
from naslab.search_spaces.data.folders import subfolders
from naslab.search_spaces.data.read import read_json, read_lines, read_pickled_captions, read_table
from naslab.search_spaces.data.video.options import VideoTextOptions
from naslab.search_spaces.data.video.sets import Question
from naslab.search_spaces.splits import by_split, split_called

SPLITS = ("train", "validation", "test")
MSVD_SPLITS = {"train": (1, 1200), "validation": (1201, 1300), "test": (1301, 1970)}
"""Numbers in youtube_mapping.txt, as divided by Venugopalan et al. 2015 and ever since."""


@dataclass
class Described:
    """A video by the name that the annotation gives it, with its texts; the questions' `clip` is not yet set."""

    video: str
    captions: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


Annotations = dict[str, list[Described]]
"""Videos of the splits that the annotation knows, under names of SPLITS."""


def read_annotations(options: VideoTextOptions, root: Path) -> Annotations:
    """Read the annotation of the data set `options.name` from the files in `root`.

    Raises:
        InputError: a file that is missing, damaged or of another format, by path.
    """
    match options.name:
        case "msrvtt":
            return msrvtt(root, options.split)
        case "msvd":
            return msvd(root)
        case "didemo":
            return didemo(root)
        case "tgif_qa":
            return tgif_qa(root, options.question_type)
        case _:
            return folder(root)


def folder(root: Path) -> Annotations:
    """Videos with captions.csv, .json or .txt, and perhaps questions.csv: in `root`, or in root/train, val and test.

    In a split's own folder the split is the folder's, whatever a column says.
    """
    parts = {split: part for split, part in by_split(subfolders(root)).items() if _caption_file(part)}
    if not parts:
        return _own_files(root, "")
    return {split: list(chain(*_own_files(part, f"{part.name}/").values())) for split, part in parts.items()}


def msrvtt(root: Path, split: str) -> Annotations:
    """MSR-VTT (Xu et al. 2016): MSRVTT_data.json, or train_val_videodatainfo.json and test_videodatainfo.json.

    `1k-A` tests on the 1,000 pairs of MSRVTT_JSFUSION_test.csv (Yu et al. 2018) and trains on MSRVTT_train.9k.csv, or
    on all other videos. {train,val,test}_qa.json, where they are there, give the questions of MSRVTT-QA.
    """
    whole = root / "MSRVTT_data.json"
    paths = [whole] if whole.exists() else [root / "train_val_videodatainfo.json", root / "test_videodatainfo.json"]
    if split == "1k-A" and not whole.exists():
        paths = [path for path in paths if path.exists()] or paths[:1]
    videos: dict[str, Described] = {}
    official: dict[str, str] = {}
    for path in paths:
        document = read_json(path, {"videos": list, "sentences": list})
        for row in document["videos"]:
            name = str(_value(row, "video_id", path))
            videos[name] = Described(name)
            official[name] = split_called(str(row.get("split"))) or "train"
        for row in document["sentences"]:
            if (name := str(_value(row, "video_id", path))) in videos:
                videos[name].captions.append(str(_value(row, "caption", path)))
    for row, path in _qa_rows(root):
        if (name := f"video{_value(row, 'video_id', path)}") in videos:
            videos[name].questions.append(_open_question(row, path))
    if split == "full":
        return _grouped((official[name], described) for name, described in videos.items())
    pairs = read_table(root / "MSRVTT_JSFUSION_test.csv", ("video_id", "sentence"))
    test = {row["video_id"]: row["sentence"] for row in pairs}
    listed = root / "MSRVTT_train.9k.csv"
    train = [row["video_id"] for row in read_table(listed, ("video_id",))] if listed.exists() else list(videos)
    return {
        "train": [videos[name] for name in train if name in videos and name not in test],
        "test": [Described(n, [text], videos[n].questions if n in videos else []) for n, text in test.items()],
    }


def msvd(root: Path) -> Annotations:
    """MSVD (Chen and Dolan 2011): AllVideoDescriptions.txt or raw-captions.pkl, and the three lists of videos.

    Lists are {train,val,test}_list.txt; without them the numbers in youtube_mapping.txt decide. With that file
    {train,val,test}_qa.json give the questions of MSVD-QA.
    """
    videos: dict[str, Described] = {}
    described, pickled = root / "AllVideoDescriptions.txt", root / "raw-captions.pkl"
    if not described.exists() and pickled.exists():
        videos = {name: Described(name, texts) for name, texts in read_pickled_captions(pickled).items()}
    else:
        for line in read_lines(described):
            name, _, text = line.partition(" ")
            if not line.startswith("#"):
                videos.setdefault(name, Described(name)).captions.append(text)
    questions = list(_qa_rows(root))
    mapping = _msvd_numbers(root / "youtube_mapping.txt", needed=bool(questions))
    for row, path in questions:
        if (name := mapping.get(str(_value(row, "video_id", path)), "")) in videos:
            videos[name].questions.append(_open_question(row, path))
    lists = {
        split: root / f"{short}_list.txt"
        for short, split in (("train", "train"), ("val", "validation"), ("test", "test"))
    }
    if mapping and not any(path.exists() for path in lists.values()):
        names = {
            s: [mapping[str(n)] for n in range(a, b + 1) if str(n) in mapping] for s, (a, b) in MSVD_SPLITS.items()
        }
    else:
        names = {split: read_lines(path) for split, path in lists.items()}
    return {split: [videos.get(name, Described(name)) for name in part] for split, part in names.items()}


def _msvd_numbers(path: Path, needed: bool) -> dict[str, str]:
    """Names of videos by their number, which stands in the file as vidNUMBER behind the name."""
    mapping: dict[str, str] = {}
    for line in read_lines(path) if needed or path.exists() else []:
        name, _, number = line.partition(" ")
        if not number.strip().removeprefix("vid").isdigit():
            raise InputError(f"{path}: {line!r}: each line must be a video's name, a space and vidNUMBER")
        mapping[number.strip().removeprefix("vid")] = name
    return mapping


def didemo(root: Path) -> Annotations:
    """DiDeMo (Hendricks et al. 2017): {train,val,test}_data.json; a video's descriptions, joined, are its caption."""
    found: Annotations = {}
    for name, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        path = root / f"{name}_data.json"
        texts: dict[str, list[str]] = defaultdict(list)
        for row in read_json(path, list):
            if text := str(_value(row, "description", path)).strip():
                texts[str(_value(row, "video", path))].append(text)
        found[split] = [Described(video, [" ".join(parts)]) for video, parts in texts.items()]
    return found


def tgif_qa(root: Path, question_type: str) -> Annotations:
    """TGIF-QA (Jang et al. 2017): {Train,Test}_TYPE_question.csv, or Total_TYPE_question.csv, tab-separated.

    A clip's caption is its description where the task has one (frameqa), else a question with its right answer.
    """
    choice = question_type in ("action", "transition")
    columns = ("gif_name", "question", *(f"a{n}" for n in range(1, 6) if choice), "answer")
    total = root / f"Total_{question_type}_question.csv"
    parts = {split: root / f"{split.capitalize()}_{question_type}_question.csv" for split in ("train", "test")}
    if total.exists() and not any(path.exists() for path in parts.values()):
        parts = {"train": total}
    found: Annotations = {}
    for split, path in parts.items():
        videos: dict[str, Described] = {}
        for number, row in enumerate(read_table(path, columns, "\t"), 2):
            question = _tgif_question(row, choice, question_type, f"{path}: line {number}")
            described = videos.setdefault(row["gif_name"], Described(row["gif_name"]))
            described.questions.append(question)
            if not described.captions:
                described.captions.append(row.get("description") or f"{question.text} {question.answer}")
        found[split] = list(videos.values())
    return found


def _tgif_question(row: dict[str, str], choice: bool, kind: str, where: str) -> Question:
    if not choice:
        return Question(0, row["question"], row["answer"], kind=kind)
    options = tuple(row[f"a{n}"] for n in range(1, 6))
    if row["answer"] not in ("0", "1", "2", "3", "4"):
        raise InputError(f"{where}: answer {row['answer']!r}: must be the place of the right option, 0 to 4")
    return Question(0, row["question"], options[int(row["answer"])], options, kind)


def _caption_file(root: Path) -> Path | None:
    return next((path for end in ("csv", "json", "txt") if (path := root / f"captions.{end}").exists()), None)


def _own_files(root: Path, prefix: str) -> Annotations:
    path = _caption_file(root)
    if path is None:
        raise InputError(
            f"{root / 'captions.csv'}: no such file; a folder needs captions.csv, captions.json or captions.txt"
        )
    videos: dict[str, Described] = {}
    splits: dict[str, str] = {}
    for number, (name, text, split) in enumerate(_own_rows(path), 1):
        if not text.strip():
            raise InputError(f"{path}: caption {number} ({name}) is empty; write one or remove the entry")
        known = split_called(split)
        if known is None:
            raise InputError(f"{path}: {name}: split {split!r} is unknown; allowed are train, val and test")
        videos.setdefault(name, Described(prefix + name)).captions.append(text.strip())
        splits[name] = known
    questions = root / "questions.csv"
    for row in read_table(questions, ("file", "question", "answer")) if questions.exists() else []:
        options = tuple(part.strip() for part in (row.get("options") or "").split("|") if part.strip())
        if not row["question"].strip() or not row["answer"].strip():
            raise InputError(
                f"{questions}: {row['file']}: a question or an answer is empty; write one or remove the line"
            )
        if options and row["answer"].strip() not in options:
            raise InputError(f"{questions}: {row['file']}: the answer {row['answer']!r} is none of the options")
        if row["file"] not in videos:
            raise InputError(f"{questions}: {row['file']} is not in {path.name}")
        question = Question(0, row["question"].strip(), row["answer"].strip(), options, row.get("kind") or "open")
        videos[row["file"]].questions.append(question)
    return _grouped((splits[name], described) for name, described in videos.items())


def _own_rows(path: Path) -> Iterable[tuple[str, str, str]]:
    """File, caption and split of each caption."""
    if path.suffix == ".csv":
        for row in read_table(path, ("file", "caption")):
            yield row["file"], row["caption"], row.get("split") or "train"
    elif path.suffix == ".txt":
        for line in read_lines(path):
            name, tab, text = line.partition("\t")
            if not tab:
                raise InputError(f"{path}: {line!r}: each line must be a file's name, a tab and its caption")
            yield name, text, "train"
    else:
        document = read_json(path, (list, dict))
        if isinstance(document, dict):
            document = [{"file": name, "caption": captions} for name, captions in document.items()]
        for row in document:
            captions = _value(row, "caption", path)
            for text in captions if isinstance(captions, list) else [captions]:
                yield str(_value(row, "file", path)), str(text), str(row.get("split") or "train")


def _grouped(pairs: Iterable[tuple[str, Described]]) -> Annotations:
    found: Annotations = defaultdict(list)
    for split, described in pairs:
        found[split].append(described)
    return dict(found)


def _qa_rows(root: Path) -> Iterable[tuple[dict[str, Any], Path]]:
    for name in ("train", "val", "test"):
        path = root / f"{name}_qa.json"
        if path.exists():
            yield from ((row, path) for row in read_json(path, list))


def _open_question(row: dict[str, Any], path: Path) -> Question:
    return Question(0, str(_value(row, "question", path)), str(_value(row, "answer", path)))


def _value(row: Any, key: str, path: Path) -> Any:
    if not isinstance(row, dict) or key not in row:
        raise InputError(f"{path}: an entry without {key!r}; the file is not of the published format")
    return row[key]
