"""The published annotation formats, and the own one, on clips that are really encoded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from videos import encode, folder, load

from naslab.errors import InputError
from naslab.search_spaces.data.video import Question


def test_a_folder_with_splits_questions_and_several_captions(tmp_path):
    for part, names in {"train": ["a.mp4", "b.avi"], "val": ["c.mkv"], "test": ["d.gif"]}.items():
        folder(tmp_path / part, names)
    (tmp_path / "train" / "captions.csv").write_text("file,caption\na.mp4,one\nb.avi,two\na.mp4,uno\n")
    (tmp_path / "train" / "questions.csv").write_text(
        "file,question,answer,options\nb.avi,how bright?,dark,\na.mp4,which?,x,x|y|z\n"
    )
    data = load(tmp_path)
    assert sorted(data.train.captions[:2]) == ["one", "two"]
    first = data.train.captions.index("one")
    assert data.train.captions[2] == "uno"
    assert data.train.caption_clips.tolist() == [0, 1, first]
    assert set(data.train.questions) == {
        Question(1 - first, "how bright?", "dark"),
        Question(first, "which?", "x", ("x", "y", "z")),
    }
    assert data.answers == ("dark",)
    assert (len(data.validation), len(data.test), data.channels) == (1, 1, 3)
    assert len(data.train.take(torch.tensor([1])).questions) == 1


@pytest.mark.parametrize("end", ["json", "dict", "txt"])
def test_other_caption_files(tmp_path, end):
    folder(tmp_path, [f"{n}.mp4" for n in range(4)])
    (tmp_path / "captions.csv").unlink()
    texts = {f"{n}.mp4": f"clip {n}" for n in range(4)}
    if end == "txt":
        (tmp_path / "captions.txt").write_text("".join(f"{name}\t{text}\n" for name, text in texts.items()))
    elif end == "dict":
        (tmp_path / "captions.json").write_text(json.dumps(texts))
    else:
        rows = [{"file": name, "caption": [text, "again"]} for name, text in texts.items()]
        (tmp_path / "captions.json").write_text(json.dumps(rows))
    data = load(tmp_path, validation=1, test=1)
    both = [*data.train.captions[:2], data.validation.captions[0], data.test.captions[0]]
    assert sorted(both) == sorted(texts.values())


def msrvtt(root: Path) -> None:
    """As published: one list of videos with the official split, one of sentences."""
    parts = {
        "train_val_videodatainfo.json": ["train", "train", "validate"],
        "test_videodatainfo.json": ["test", "test"],
    }
    number = 0
    for file, splits in parts.items():
        videos, sentences = [], []
        for split in splits:
            name = f"video{number}"
            encode(root / "TrainValVideo" / f"{name}.mp4")
            videos.append(
                {
                    "category": 9,
                    "url": "-",
                    "video_id": name,
                    "start time": 1.0,
                    "end time": 9.5,
                    "split": split,
                    "id": number,
                }
            )
            for n in range(2):
                sentences.append({"caption": f"sentence {n} of {name}", "video_id": name, "sen_id": 2 * number + n})
            number += 1
        (root / file).write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    (root / "train_qa.json").write_text(
        json.dumps([{"answer": "couch", "category_id": 14, "id": 0, "question": "what is sat on?", "video_id": 1}])
    )


def test_msrvtt_official_split(tmp_path):
    msrvtt(tmp_path)
    data = load(tmp_path, "msrvtt", split="full")
    assert sorted(data.train.captions[:2]) == ["sentence 0 of video0", "sentence 0 of video1"]
    assert data.validation.captions == ["sentence 0 of video2", "sentence 1 of video2"]
    assert len(data.test) == 2
    question = data.train.questions[0]
    assert data.train.paths[question.clip].stem == "video1"
    assert (question.text, data.answers) == ("what is sat on?", ("couch",))


def test_msrvtt_1ka_tests_on_the_pairs_of_jsfusion(tmp_path):
    msrvtt(tmp_path)
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text(
        "key,vid_key,video_id,sentence\nret0,msr4,video4,a person connects something\nret1,msr3,video3,a cat\n"
    )
    data = load(tmp_path, "msrvtt", validation=1)
    assert data.test.captions == ["a person connects something", "a cat"]
    assert [path.stem for path in data.test.paths] == ["video4", "video3"]
    assert {p.stem for p in (*data.train.paths, *data.validation.paths)} == {"video0", "video1", "video2"}
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\nvideo1\nvideo2\n")
    data = load(tmp_path, "msrvtt", validation=1)
    assert {p.stem for p in (*data.train.paths, *data.validation.paths)} == {"video1", "video2"}


@pytest.mark.parametrize("pickled", [False, True])
def test_msvd(tmp_path, pickled):
    names = [f"mv89psg6zh{n}_33_46" for n in range(4)]
    for name in names:
        encode(tmp_path / "YouTubeClips" / f"{name}.avi")
    texts = {name: [f"a bird {n} bathes", "a bird in a sink"] for n, name in enumerate(names)}
    if pickled:
        words = {name: [t.split() for t in captions] for name, captions in texts.items()}
        (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(words))
    else:
        lines = [f"{name} {t}" for name, captions in texts.items() for t in captions]
        (tmp_path / "AllVideoDescriptions.txt").write_text("# comment of the authors\n\n" + "\n".join(lines) + "\n")
    lists = {"train": names[:2], "val": names[2:3], "test": names[3:]}
    for split, part in lists.items():
        (tmp_path / f"{split}_list.txt").write_text("\n".join(part) + "\n")
    (tmp_path / "youtube_mapping.txt").write_text("".join(f"{name} vid{n + 1}\n" for n, name in enumerate(names)))
    qa = [{"answer": "bird", "id": 7, "question": "what bathes?", "video_id": 4}]
    (tmp_path / "test_qa.json").write_text(json.dumps(qa))
    data = load(tmp_path, "msvd")
    assert data.validation.captions == texts[names[2]]
    assert list(data.test.questions) == [Question(0, "what bathes?", "bird")]
    assert len(data.train) == 2


def test_msvd_is_divided_by_number_where_there_are_no_lists(tmp_path):
    numbers = {"one": 1200, "two": 1201, "three": 1301}
    for name in numbers:
        encode(tmp_path / f"{name}.avi")
    (tmp_path / "AllVideoDescriptions.txt").write_text("".join(f"{name} text of {name}\n" for name in numbers))
    (tmp_path / "youtube_mapping.txt").write_text("".join(f"{name} vid{n}\n" for name, n in numbers.items()))
    data = load(tmp_path, "msvd")
    parts = (data.train, data.validation, data.test)
    assert [s.captions for s in parts] == [["text of one"], ["text of two"], ["text of three"]]


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"a": [print]}))
    with pytest.raises(InputError, match="not a pickled dict of captions"):
        load(tmp_path, "msvd")


def test_didemo_joins_the_descriptions_of_a_video(tmp_path):
    for split, name in {"train": "12@N02_1_8.mov", "val": "13@N02_2_9.avi", "test": "14@N02_3_7.mov"}.items():
        # Archives re-encode: the annotation says .mov or .avi, the file may be .mp4.
        encode(tmp_path / "videos" / f"{Path(name).stem}.mp4")
        rows = [
            {
                "annotation_id": n,
                "description": text,
                "video": name,
                "times": [[0, 0]],
                "num_segments": 6,
                "dl_link": "-",
            }
            for n, text in enumerate(("a man waves.", "the camera pans", " "))
        ]
        (tmp_path / f"{split}_data.json").write_text(json.dumps(rows))
    data = load(tmp_path, "didemo")
    assert data.test.captions == ["a man waves. the camera pans"]
    assert data.test.paths[0].name == "14@N02_3_7.mp4"


@pytest.mark.parametrize("names", [("training", "testing"), ("Train", "Test"), ("train", "valid", "test")])
def test_captioned_videos_lie_in_split_folders_of_any_name(tmp_path, names):
    for split, name in enumerate(names):
        folder(tmp_path / name, [f"{split}{n}.mkv" for n in range(3)])
    data = load(tmp_path)
    assert sorted(path.parent.name for path in data.test.paths) == [names[-1]] * 3
    assert len(data.train) + len(data.validation) == 3 * (len(names) - 1)


def test_in_a_splits_own_folder_a_column_for_the_split_changes_nothing(tmp_path):
    for split in ("train", "val", "test"):
        folder(tmp_path / split, [f"{split}{n}.mkv" for n in range(3)])
        table = tmp_path / split / "captions.csv"
        header, *rows = table.read_text().splitlines()
        table.write_text("\n".join([f"{header},split", *(f"{row},{split}" for row in rows)]))
    data = load(tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [3, 3, 3]


TGIF = {
    "action": "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\n"
    "{gif}\tWhat does the cat do 3 times ?\tjump\tlick\tsleep\tturn\trun\t1\tACTION4\t26\n",
    "frameqa": "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription\n"
    "{gif}\twhat is waved ?\ttail\t0\tFRAMEQA4\t43219\ta dog waves its tail .\n",
    "count": "gif_name\tquestion\tanswer\tvid_id\tkey\n{gif}\tHow many times does the man nod ?\t3\tCOUNT12\t52\n",
}


@pytest.mark.parametrize("kind", TGIF)
def test_tgif_qa(tmp_path, kind):
    header, row = TGIF[kind].splitlines()
    gifs = [f"tumblr_{n}" for n in range(4)]
    for gif in gifs:
        encode(tmp_path / "gifs" / f"{gif}.gif")
    for split, part in {"Train": gifs[:3], "Test": gifs[3:]}.items():
        text = "\n".join([header, *(row.format(gif=gif) for gif in part)]) + "\n"
        (tmp_path / f"{split}_{kind}_question.csv").write_text(text)
    data = load(tmp_path, "tgif_qa", question_type=kind)
    question = data.test.questions[0]
    assert (len(data.train), len(data.validation), len(data.test)) == (2, 1, 1)
    if kind == "action":
        assert question.options == ("jump", "lick", "sleep", "turn", "run")
        assert question.answer == "lick"
        assert data.test.captions == ["What does the cat do 3 times ? lick"]
    elif kind == "frameqa":
        assert (question.answer, question.options, data.answers) == ("tail", (), ("tail",))
        assert data.test.captions == ["a dog waves its tail ."]
    else:
        assert (question.answer, data.answers) == ("3", ("3",))


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "files", "line"),
    [
        ("folder", {}, r"captions\.csv: no such file; a folder needs"),
        ("folder", {"captions.csv": "file,text\na.mp4,b\n"}, "no column 'caption' among 'file', 'text'"),
        ("folder", {"captions.csv": "file,caption\n"}, "no row under the header"),
        ("folder", {"captions.csv": "file,caption\na.mp4,one\nb.mp4, \n"}, r"caption 2 \(b\.mp4\) is empty"),
        ("folder", {"captions.csv": "file,caption,split\na.mp4,one,extra\n"}, "split 'extra' is unknown"),
        (
            "folder",
            {"captions.csv": "file,caption\na.mp4,a dog, running\n"},
            "row 1 has more cells than the header; quote",
        ),
        ("folder", {"captions.csv": 'file,caption\na.mp4,"one'}, "after line 1: unexpected end of data"),
        ("folder", {"captions.json": "{"}, r"captions\.json: not JSON \(line 1"),
        ("folder", {"captions.json": "3"}, "must hold a list or an object"),
        ("folder", {"captions.txt": "a.mp4 one\n"}, "a file's name, a tab and its caption"),
        ("msrvtt", {}, r"train_val_videodatainfo\.json: no such file"),
        ("msrvtt", {"MSRVTT_data.json": '{"videos": []}'}, "holds no list 'sentences'"),
        ("msrvtt", {"MSRVTT_data.json": '{"videos": [{}], "sentences": []}'}, "an entry without 'video_id'"),
        ("msrvtt", {"MSRVTT_data.json": '{"videos": [], "sentences": []}'}, r"MSRVTT_JSFUSION_test\.csv: no such file"),
        ("msvd", {}, r"AllVideoDescriptions\.txt: no such file"),
        ("msvd", {"AllVideoDescriptions.txt": "a text\n"}, r"train_list\.txt: no such file"),
        ("msvd", {"AllVideoDescriptions.txt": "a text\n", "test_qa.json": "[{}]"}, "youtube_mapping.txt: no such file"),
        ("msvd", {"AllVideoDescriptions.txt": "a text\n", "youtube_mapping.txt": "a b\n"}, "a space and vidNUMBER"),
        ("didemo", {"train_data.json": "{}"}, "must hold a list"),
        ("didemo", {"train_data.json": '[{"video": "a"}]'}, "an entry without 'description'"),
        ("tgif_qa", {}, r"Train_frameqa_question\.csv: no such file"),
        ("tgif_qa", {"Total_frameqa_question.csv": "gif_name,question\na,b\n"}, "columns stand between tabs"),
    ],
)
def test_a_wrong_annotation_is_one_line(tmp_path, name, files, line):
    write(tmp_path, files)
    with pytest.raises(InputError, match=line) as caught:
        load(tmp_path, name)
    assert "\n" not in str(caught.value)
