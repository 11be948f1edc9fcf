"""Labelled clips: generated with a known truth, and videos in class folders that are really encoded."""

import pytest
import torch
from videos import encode

from naslab.errors import InputError
from naslab.search_spaces.data import sifting
from naslab.search_spaces.data.augment import AugmentationOptions
from naslab.search_spaces.data.video import ClipAugmentation, ClipOptions, load_clips
from naslab.search_spaces.data.video import recorded as recording

PLAIN = AugmentationOptions(
    crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0, jitter_probability=0, grey_probability=0
)
SPLITS = ("train", "validation", "test")


def load(**options):
    return load_clips(ClipOptions.model_validate({"train": 64, "validation": 32, "test": 32, "frames": 8, **options}))


def whole(clips):
    return clips.fetch(torch.arange(len(clips)))


def test_generated_clips_are_one_channel_and_the_same_for_the_same_seed():
    data, again, other = load(), load(), load(seed=1)
    for split in SPLITS:
        clips = getattr(data, split)
        assert clips.fetch(torch.tensor([3, 1])).shape == (2, 8, 1, 32, 32)
        assert clips.frames == 8
        assert torch.equal(whole(clips), whole(getattr(again, split)))
        assert not torch.equal(whole(clips), whole(getattr(other, split)))
    assert (data.channels, data.image_size, data.classes) == (1, 32, ("left", "up", "right", "down"))
    assert torch.bincount(data.train.labels).tolist() == [16] * 4


def test_the_direction_is_where_the_moving_object_goes():
    """On a plain ground without clutter what changes between two frames moves by the mean way of its pixels.

    The edges of the canvas are joined, so the way is the shift, of all that a step could make, that explains most.
    """
    data = load(clutter=0, frames=16)
    step = {0: (2, -1), 1: (1, -1), 2: (2, 1), 3: (1, 1)}
    for clip, label in zip(whole(data.test)[:, :, 0].float(), data.test.labels.tolist(), strict=True):
        first, second = clip[4], clip[12]
        moved = (first - second).abs() > 0
        errors = {}
        for candidate, (axis, sign) in step.items():
            shifted = [first.roll(sign * way, axis - 1) for way in range(4, 10)]
            errors[candidate] = min(float((s - second)[moved].abs().sum()) for s in shifted)
        assert min(errors, key=errors.__getitem__) == label


def test_direction_and_object_label_the_same_clips():
    direction, moved = load(), load(label="object", classes=5)
    assert moved.classes == ("bag", "boot", "trouser", "dress", "sandal")
    assert direction.sided
    assert not moved.sided
    assert set(load(label="object", train=640).train.labels.tolist()) == set(range(6))
    assert torch.equal(whole(load(label="object").train), whole(direction.train))


def test_a_view_is_a_window_of_frames():
    """Frame t of the stored clip is of level t, so that a view says which frames it shows."""
    clips = torch.arange(12, dtype=torch.uint8).view(1, 12, 1, 1, 1).expand(64, 12, 1, 4, 4)
    views = ClipAugmentation(PLAIN, (0.0,), (1 / 255,), stored=12, frames=4, stride=3)
    shown = views(clips, torch.Generator().manual_seed(0))
    assert shown.shape == (64, 4, 1, 4, 4)
    frames = shown[:, :, 0, 0, 0].round().int()
    assert torch.equal(frames.diff(dim=1), torch.full((64, 3), 3, dtype=torch.int))
    assert set(frames[:, 0].tolist()) == {0, 1, 2}
    assert views.normalise(clips)[0, :, 0, 0, 0].tolist() == pytest.approx([1, 4, 7, 10])


def test_a_window_that_does_not_fit_is_one_line():
    with pytest.raises(InputError, match=r"frames: 4 at a task\.dataset.stride of 3 span 10 frames, more than the 9"):
        ClipAugmentation(PLAIN, (0.0,), (1.0,), stored=9, frames=4, stride=3)


@pytest.fixture
def folder(tmp_path):
    """Two classes, dark and light, of ten training videos each, and three test videos."""
    for split, number in (("train", 10), ("val", 3)):
        for name, level in (("dark", 20), ("light", 200)):
            for n in range(number):
                encode(tmp_path / split / name / f"{n}.mp4", frames=8, level=lambda t, v=level: v + t)
    return tmp_path


def from_folder(root, **options):
    return load_clips(
        ClipOptions.model_validate({"name": "folder", "root": root, "frames": 4, "image_size": 16, **options})
    )


def test_class_folders_give_labelled_colour_clips(folder):
    data = from_folder(folder, validation=4)
    assert (data.classes, data.channels, data.sided) == (("dark", "light"), 3, False)
    assert [len(getattr(data, split)) for split in SPLITS] == [16, 4, 6]
    assert torch.bincount(data.validation.labels).tolist() == [2, 2]
    for split in SPLITS:
        clips = getattr(data, split)
        pixels = whole(clips).float()
        assert pixels.shape[1:] == (4, 3, 16, 16)
        assert torch.equal((pixels.mean((1, 2, 3, 4)) > 100).long(), clips.labels)
    paths = [path for split in SPLITS for path in getattr(data, split).video.paths]
    assert len(set(paths)) == 26


def test_a_tenth_is_held_out_and_classes_alone_give_a_fifth_for_the_test(folder):
    assert [len(getattr(from_folder(folder), split)) for split in SPLITS] == [18, 2, 6]
    alone = from_folder(folder / "train")
    assert [len(getattr(alone, split)) for split in SPLITS] == [15, 1, 4]


def test_unreadable_videos_are_left_out_counted_and_named(folder):
    (folder / "train" / "dark" / "0.mp4").write_text("no video")
    (folder / "val" / "light" / "1.mp4").write_bytes(b"")
    with pytest.warns(UserWarning, match="videos left out") as caught:
        data = from_folder(folder, validation=2)
    said = [str(w.message) for w in caught]
    assert any("1 of 20 videos left out: train/dark/0.mp4 (" in line for line in said)
    assert any("1 of 6 videos left out: val/light/1.mp4 (" in line for line in said)
    assert [len(getattr(data, split)) for split in SPLITS] == [17, 2, 5]
    assert data.train.video.skipped[0].startswith("train/dark/0.mp4 (")


def test_no_more_files_are_probed_than_are_wanted(folder, monkeypatch):
    probed = []
    monkeypatch.setattr(sifting, "BLOCK", 4)
    monkeypatch.setattr(recording, "probe", lambda path, decoder: probed.append(path))
    data = from_folder(folder, train=5, validation=2, test=2)
    assert [len(getattr(data, split)) for split in SPLITS] == [5, 2, 2]
    assert len(probed) == 8 + 4


def test_what_is_wrong_with_a_folder_is_one_line(folder, tmp_path):
    with pytest.raises(InputError, match=r"task\.dataset\.root: missing"):
        from_folder(None)
    with pytest.raises(InputError, match="no such folder"):
        from_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"task\.dataset\.validation: 20 of 20 usable"):
        from_folder(folder, validation=20)
    with pytest.raises(InputError, match=r"task\.dataset\.train: .* has 18 usable training videos beside 2"):
        from_folder(folder, train=19, validation=2)
    with pytest.raises(InputError, match=r"task\.dataset\.test: .* has 6 usable test videos, not 7"):
        from_folder(folder, test=7)
    for video in (folder / "train" / "dark").iterdir():
        video.write_text("no video")
    with (
        pytest.warns(UserWarning, match="10 of 20"),
        pytest.raises(InputError, match="class dark has no usable training video"),
    ):
        from_folder(folder)
    for video in (folder / "train" / "dark").iterdir():
        video.unlink()
    with pytest.raises(InputError, match="train/dark: no videos; each class of the training folder needs some"):
        from_folder(folder)


@pytest.mark.parametrize("names", [("training", "testing"), ("TRAIN", "Valid"), ("train", "validation", "test")])
def test_split_folders_have_any_of_their_names(tmp_path, names):
    for split in names:
        for label, name in enumerate(("dark", "light")):
            for n in range(3):
                encode(tmp_path / split / name / f"{n}.mkv", frames=4, level=lambda t, v=label: 20 + 150 * v + t)
    data = from_folder(tmp_path)
    assert data.classes == ("dark", "light")
    sizes = (5, 1, 6) if len(names) == 2 else (6, 6, 6)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
