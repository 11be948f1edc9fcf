"""Video files: which are found, which frames are taken, and what a broken one does."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from videos import CODECS, encode, folder, load

from naslab.errors import InputError
from naslab.search_spaces.data import sifting
from naslab.search_spaces.data.video import VideoTextOptions, load_video_text
from naslab.search_spaces.data.video import decode as decoding
from naslab.search_spaces.data.video import recorded as recording
from naslab.search_spaces.data.video.decode import Unreadable, choose_decoder, decode, probe


@pytest.mark.parametrize("end", CODECS)
def test_frames_are_those_in_the_middle_of_the_segments(tmp_path, end):
    path = encode(tmp_path / f"clip.{end}")
    frames, decoded, wanted = decode(path, 4, 16, "pyav")
    assert frames.shape == (4, 3, 16, 16)
    assert frames.dtype == torch.uint8
    assert (decoded, wanted) == (4, 4)
    levels = frames.float().mean((1, 2, 3))
    assert levels.tolist() == pytest.approx([20, 80, 140, 200], abs=18)


@pytest.mark.parametrize("size", [(50, 30), (30, 50), (18, 18), (130, 16), (8, 8)])
def test_any_size_is_cropped_to_the_square(tmp_path, size):
    path = encode(tmp_path / "clip.mkv", size=size)
    assert decode(path, 4, 16, "pyav")[0].shape == (4, 3, 16, 16)


def test_the_crop_is_the_centre(tmp_path):
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 16, "yuv444p"
        picture = np.zeros((16, 64, 3), np.uint8)
        picture[:, 24:40] = 255
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert decode(path, 4, 16, "pyav")[0].float().mean() > 240


def test_a_short_video_repeats_frames(tmp_path):
    frames, decoded, wanted = decode(encode(tmp_path / "clip.mkv", frames=2, level=lambda t: 200 * t), 4, 16, "pyav")
    assert frames.float().mean((1, 2, 3)).tolist() == pytest.approx([0, 0, 200, 200], abs=4)
    assert (decoded, wanted) == (2, 2)


def test_broken_files_are_left_out_counted_and_named(tmp_path):
    good = [f"good{n}.mp4" for n in range(6)]
    folder(tmp_path, [*good, "cut.mp4"])
    whole = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("this is no video\n")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with (tmp_path / "captions.csv").open("a") as file:
        file.write("text.mp4,some text\nempty.mp4,nothing\ngone.mp4,a clip that is not there\n")
    broken = ("cut", "text", "empty", "gone")
    with pytest.warns(UserWarning, match="videos left out") as caught:
        data = load(tmp_path, seed=3, validation=1, test=1)
    skipped = [line for s in (data.train, data.validation, data.test) for line in s.skipped]
    assert sorted(line.split(".")[0] for line in skipped) == sorted(broken)
    assert all(any(name in str(w.message) for w in caught) for name in broken)
    assert sum(len(s) for s in (data.train, data.validation, data.test)) == 6
    assert data.train.fetch(torch.arange(len(data.train)), 4).shape[1:] == (4, 3, 16, 16)
    assert all("good" in caption for caption in data.train.captions)


def test_nothing_left_is_one_line(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_text("no video")
    (tmp_path / "captions.csv").write_text("file,caption\na.mp4,one\nb.mp4,two\nc.mp4,three\n")
    line = r"none of 3 videos can be used; the first: \w.mp4"
    with pytest.warns(UserWarning, match="3 of 3 videos left out"), pytest.raises(InputError, match=line):
        load(tmp_path)


def test_a_file_damaged_in_the_middle_gives_what_it_has(tmp_path):
    names = [f"{n}.mp4" for n in range(4)]
    folder(tmp_path, names, frames=60, size=(96, 96), level=lambda t: 4 * t, options={"movflags": "faststart"})
    for name in names:
        # With the index in front a cut file still opens and promises all of its frames.
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"\d\.mp4: damaged, \d of 4 frames decoded, the last repeated"):
        data = load(tmp_path, validation=1, test=1)
    clips = data.train.fetch(torch.arange(2), 4)
    levels = clips.float().mean((0, 2, 3, 4))
    assert levels[0] == pytest.approx(28, abs=8)
    assert levels[-1] < 200
    assert levels[-1] == levels[-2]


def test_decoded_clips_are_kept_within_the_limit(tmp_path):
    folder(tmp_path, [f"{n}.mp4" for n in range(5)])
    data = load(tmp_path, validation=1, test=1)
    clips = data.train.fetch(torch.arange(3), 4)
    for path in data.train.paths:
        path.unlink()
    assert torch.equal(data.train.fetch(torch.arange(3), 4), clips)
    folder(tmp_path, [f"{n}.mp4" for n in range(5)])
    data = load(tmp_path, validation=1, test=1, cache_mib=0)
    data.train.paths[0].unlink()
    with pytest.raises(InputError, match="was readable before, now is not"):
        data.train.fetch(torch.tensor([0]), 4)


@pytest.mark.parametrize(
    ("named", "lies_as"),
    [
        ("a.mov", "a.mts"), ("a.mov", "a.m2ts"), ("a.avi", "a.3g2"), ("a.m2ts", "a.mp4"), ("a.3g2", "a.3g2"),
        ("a.MTS", "a.mp4"), ("a.mov", "a.MTS"), ("a.", "a.mp4"), ("a.", "a..mp4"), ("a", "a."), ("a.mp4", "a"),
        ("a.mov", "a..mp4"), ("a.avi", "a.avi.mp4"), ("12@N02_1.2_8.mov", "12@N02_1.2_8.vob"), ("a.wmv", "b/c/a.ts"),
        ("a.mov", "a.3gpp"), ("a.avi", "a.ogg"), ("a.mp4", "a.NUT"), ("a.h264", "a.mk3d"), ("a.mts", "a.M2P"),
        ("caf\u00e9.mov", "cafe\u0301.mp4"), ("cafe\u0301.avi", "caf\u00e9.avi"),
    ],
)  # fmt: skip
def test_a_video_is_found_in_any_container(tmp_path, named, lies_as):
    path = tmp_path / "videos" / lies_as
    path.parent.mkdir(parents=True)
    path.write_bytes(encode(tmp_path / "made.mkv").read_bytes())
    hidden = path.parent / f"._{path.name}"
    hidden.write_bytes(b"resource fork")
    (path.parent / f"{Path(named).stem}.json").write_text("{}")
    found = recording._Files(tmp_path / "videos").find(named)
    assert found == path
    assert decode(found, 4, 16, "pyav")[1] == 4


def test_another_video_is_not_found_instead(tmp_path):
    for name in ("a.json", "ab.mp4", "b_a.mp4", "a.jpg"):
        (tmp_path / name).write_bytes(b"-")
    assert recording._Files(tmp_path).find("a.mov") is None


def test_a_wrong_root_and_too_many_clips_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"task\.dataset\.root: missing; msvd needs"):
        load_video_text(VideoTextOptions(name="msvd"))
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "nowhere")
    folder(tmp_path, [f"{n}.mp4" for n in range(4)])
    with pytest.raises(InputError, match="has 2 usable train videos, not 3"):
        load(tmp_path, train=3, validation=1, test=1)
    for name in "01":
        (tmp_path / f"{name}.mp4").unlink()
    with pytest.warns(UserWarning, match="2 of 4"), pytest.raises(InputError, match="it takes 3 or more"):
        load(tmp_path)


def test_no_more_files_are_probed_than_are_wanted(tmp_path, monkeypatch):
    rows = [f"{n}.mp4,text {n}" for n in range(300)]
    encode(tmp_path / "0.mp4")
    for n in range(1, 300):
        (tmp_path / f"{n}.mp4").hardlink_to(tmp_path / "0.mp4")
    (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
    probed = []
    monkeypatch.setattr(recording, "probe", lambda path, decoder: probed.append(path))
    data = load(tmp_path, train=10, validation=5, test=5)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 5, 5)
    assert len(probed) == sifting.BLOCK


def test_frames_beyond_the_stored_ones_are_one_line(tmp_path):
    folder(tmp_path, [f"{n}.mp4" for n in range(4)])
    with pytest.raises(InputError, match="5 asked for, but a clip has 4"):
        load(tmp_path, validation=1, test=1).train.fetch(torch.tensor([0]), 5)


def test_a_missing_decoder_names_the_package(monkeypatch):
    monkeypatch.setattr(decoding, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="no package that decodes video is installed; pip install av or pip install"):
        choose_decoder("auto")
    with pytest.raises(InputError, match=r"pip install torchcodec$"):
        choose_decoder("torchcodec")


def test_video_without_a_video_stream_is_unreadable(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(Unreadable, match="holds no video stream"):
        probe(path, "pyav")


@pytest.mark.skipif("torchcodec" not in sys.modules and not decoding.find_spec("torchcodec"), reason="needs torchcodec")
def test_torchcodec_gives_the_frames_of_pyav(tmp_path):
    path = encode(tmp_path / "clip.mkv")
    assert torch.equal(decode(path, 4, 16, "torchcodec")[0], decode(path, 4, 16, "pyav")[0])
