"""Generated video: deterministic, even in its answers, and blind to single frames and to text where it says so."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch
from pydantic import ValidationError

from naslab.errors import InputError
from naslab.search_spaces.data.video import VideoTextOptions, load_video_text
from naslab.search_spaces.data.video.generated import GeneratedVideo
from naslab.search_spaces.data.video.options import ALL_EVENTS
from naslab.search_spaces.data.video.scenes import TWINS, change_frames
from naslab.search_spaces.data.video.sets import VideoText, frame_times

SMALL = VideoTextOptions(train=384, validation=96, test=96)


@pytest.fixture(scope="module")
def data():
    return load_video_text(SMALL)


def fetch(clips: VideoText, *indices: int, frames: int = 8) -> torch.Tensor:
    return clips.fetch(torch.tensor(indices), frames)


def test_clips_are_bytes_of_the_asked_shape_and_stay_the_same(data):
    again = load_video_text(SMALL)
    clips = fetch(data.train, 0, 9, 300)
    assert clips.shape == (3, 8, 1, 32, 32)
    assert clips.dtype == torch.uint8
    assert torch.equal(clips, fetch(again.train, 0, 9, 300))
    assert torch.equal(clips[1:2], fetch(data.train, 9))
    assert data.train.captions == again.train.captions
    assert data.train.questions == again.train.questions
    other = load_video_text(SMALL.model_copy(update={"seed": 1}))
    assert not torch.equal(clips, fetch(other.train, 0, 9, 300))


@pytest.mark.parametrize(("frames", "side"), [(4, 16), (5, 33), (9, 48), (16, 64)])
def test_other_lengths_and_sizes(frames, side):
    options = VideoTextOptions(train=48, validation=8, test=8, frames=frames, image_size=side)
    clips = load_video_text(options).train
    assert fetch(clips, 0, 47, frames=frames).shape == (2, frames, 1, side, side)


def test_no_picture_is_in_two_splits(data):
    def pictures(clips: GeneratedVideo) -> set[bytes]:
        return {picture.numpy().tobytes() for picture in clips.pictures.objects_MHW}

    train, validation, test = (pictures(s) for s in (data.train, data.validation, data.test))
    # At 12 pixels a few different sandals look alike; equal files would be found by the hundred.
    assert len(train & validation) + len(train & test) + len(validation & test) < 3
    assert len(train) > 4000
    assert len(validation) > 1000
    assert len(test) > 1000


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_text_alone_tells_nothing_about_the_answer(data, split):
    """For every question's text and options each answer is right equally often, counted, not in expectation."""
    right: dict[tuple[str, str, tuple[str, ...]], Counter[str]] = defaultdict(Counter)
    for q in getattr(data, split).questions:
        right[q.kind, q.text, tuple(sorted(q.options))][q.answer] += 1
    number = {"direction": 4, "order": None, "presence": 2, "object": 6, "count": 3, "choice": 5}
    assert {kind for kind, _, _ in right} >= {"direction", "order", "presence", "choice"}
    for (kind, text, _), answers in right.items():
        expected = number[kind] or (2 if "before or after" in text else 4)
        assert len(answers) == expected, (kind, text, answers)
        if kind != "choice":
            assert len(set(answers.values())) == 1, (kind, text, answers)


def test_options_hold_the_answer_and_each_of_five_twins_is_right_once(data):
    groups = defaultdict(list)
    for q in data.train.questions:
        if q.options:
            assert len(set(q.options)) == 5
            assert q.answer in q.options
            groups[q.clip // TWINS].append(q)
    for group in groups.values():
        assert len({q.options for q in group}) == 1
        assert sorted(q.answer for q in group) == sorted(group[0].options)


def test_the_middle_frame_is_the_same_under_every_answer(data):
    """A classifier of the middle frame gets each input once for every answer, so that it is right by chance alone."""
    middle = data.train.fetch(torch.arange(len(data.train)), 1)
    answers: dict[tuple[str, str, bytes], Counter[str]] = defaultdict(Counter)
    for q in data.train.questions:
        if q.kind in ("direction", "order", "presence"):
            answers[q.kind, q.text, middle[q.clip].numpy().tobytes()][q.answer] += 1
    assert len(answers) > 50
    for (kind, text, _), counts in answers.items():
        binary = kind == "presence" or "before or after" in text
        assert len(counts) == (2 if binary else 4), (kind, text, counts)
        assert len(set(counts.values())) == 1


@pytest.mark.parametrize("event", ["move", "turn", "cross", "sequence"])
def test_every_single_frame_is_spread_alike_under_every_direction(event):
    """The place of the asked object at each frame is uniform on the joined canvas whatever its direction.

    Kolmogorov-Smirnov against the uniform distribution; 512 families, so that 1.95 / sqrt(512) is its 0.1 % bound.
    """
    options = VideoTextOptions(train=512 * TWINS, validation=8, test=8, events=(event,))
    clips = load_video_text(options).train
    tracks = clips.tracks
    since = (torch.arange(8) - 4) / 7
    way = torch.where((since < 0)[:, None, None, None], tracks.before_NK2, tracks.after_NK2)
    places = (tracks.middle_NK2 + way * since[:, None, None, None]) % 1
    for twin in range(TWINS):
        sorted_places = places[:, twin::TWINS, 0].sort(1).values
        steps = (torch.arange(512)[:, None] + 0.5) / 512
        assert (sorted_places - steps).abs().max() < 1.95 / 512**0.5


@pytest.mark.parametrize("frames", range(4, 12))
def test_changes_lie_evenly_about_the_middle_frame_and_the_clip(frames):
    for early, late in change_frames(frames):
        assert 1 <= early <= frames // 2 < late < frames
        assert early + late == frames


def test_captions_say_what_the_frames_show(data):
    """The centre of what moves, by the difference to the clip's first frame, goes where the caption says."""
    options = VideoTextOptions(train=96, validation=8, test=8, events=("move",), clutter=0)
    clips = load_video_text(options).train
    movie = clips.fetch(torch.arange(96), 8)[:, :, 0].float()
    axis = {"left": (2, -1), "right": (2, 1), "up": (1, -1), "down": (1, 1)}
    for index, caption in enumerate(clips.captions):
        word = next(w for w in caption.split() if w in axis)
        dimension, sign = axis[word]
        # Circular cross-correlation of neighbouring frames' profiles: the best shift is the movement.
        changing = movie[index] * (movie[index] != movie[index].amin(0))
        profile = changing.sum(3 - dimension)
        shifts = [sum(float(profile[t] @ profile[t + 3].roll(-s)) for t in range(5)) for s in range(-8, 9)]
        best = shifts.index(max(shifts)) - 8
        assert best * sign > 0, (caption, best)


def test_objects_pass_each_other_exactly_once():
    options = VideoTextOptions(train=64, validation=8, test=8, events=("cross",))
    tracks = load_video_text(options).train.tracks
    for before, middle in zip(tracks.before_NK2, tracks.middle_NK2, strict=True):
        axis = int(before[0].abs().argmax())
        assert torch.equal(before[0], -before[1])
        since = torch.linspace(-4 / 7, 3 / 7, 7001, dtype=torch.float64)[:-1]
        gap = (middle[0, axis] - middle[1, axis] + 2 * before[0, axis] * since) % 1
        assert int(((gap[1:] - gap[:-1]).abs() > 0.5).sum()) + int(gap[0] == 0) in (0, 1)
        assert float((2 * before[0, axis]).abs()) == 1.0


def test_appearing_and_leaving_are_drawn():
    options = VideoTextOptions(train=64, validation=8, test=8, events=("presence",), clutter=0)
    clips = load_video_text(options).train
    light = clips.fetch(torch.arange(64), 8).float().mean((2, 3, 4))
    for values, caption in zip(light, clips.captions, strict=True):
        gain = values[-1] - values[0]
        assert (gain > 0) == ("appears" in caption)
        late = "late" in caption
        half = (values[4] - values[0]).abs() < gain.abs() / 2
        assert half == late


def test_further_captions_tell_the_same_in_other_words():
    clips = load_video_text(VideoTextOptions(train=64, validation=8, test=8, captions_per_clip=3)).train
    assert len(clips.captions) == 3 * 64
    assert clips.caption_clips.tolist() == list(range(64)) * 3
    assert all(len({clips.captions[i + 64 * n] for n in range(3)}) == 3 for i in range(64))


def test_take_keeps_texts_with_their_clips():
    clips = load_video_text(VideoTextOptions(train=64, validation=8, test=8, captions_per_clip=2)).train
    chosen = torch.tensor([40, 3, 17])
    part = clips.take(chosen)
    assert len(part) == 3
    assert torch.equal(part.fetch(torch.arange(3), 8), clips.fetch(chosen, 8))
    assert part.captions[:3] == [clips.captions[i] for i in (40, 3, 17)]
    owners = [chosen[clip].item() for clip in part.caption_clips]
    assert all(part.captions[n] in (clips.captions[i], clips.captions[64 + i]) for n, i in enumerate(owners))
    assert {(chosen[q.clip].item(), q.text, q.answer) for q in part.questions} == {
        (q.clip, q.text, q.answer) for q in clips.questions if q.clip in (40, 3, 17)
    }


def test_words_and_answers_come_from_training_alone(data):
    assert set(data.words) == {*data.train.captions, *(q.text for q in data.train.questions)}
    assert set(data.answers) == {q.answer for q in data.train.questions if not q.options}
    assert {"left", "right", "up", "down", "before", "after"} <= set(data.answers)
    assert {q.answer for q in data.test.questions if not q.options} <= set(data.answers)
    frames = data.train.fetch(torch.arange(len(data.train)), 8).float() / 255
    assert data.mean == pytest.approx([frames.mean().item()], rel=0.05)
    assert data.std == pytest.approx([frames.std().item()], rel=0.05)


def test_only_what_is_asked_for_happens():
    options = VideoTextOptions(train=64, validation=8, test=8, events=("turn",), questions=("order",), classes=4)
    clips = load_video_text(options).train
    assert all(" and then " in caption for caption in clips.captions)
    assert {q.kind for q in clips.questions} == {"order"}
    assert set(ALL_EVENTS) == set(VideoTextOptions().events)


@pytest.mark.parametrize(
    ("most", "events", "seen"), [(1, ("move",), {1}), (2, ("move",), {1, 2}), (1, ("cross",), {2})]
)
def test_no_more_objects_than_asked_for_but_as_many_as_the_event_has(most, events, seen):
    options = {"train": 96, "validation": 8, "test": 8, "objects": most, "events": events}
    clips = load_video_text(VideoTextOptions(**options)).train
    assert {int((classes >= 0).sum()) for classes in clips.tracks.classes_NK} == seen


def test_objects_are_as_large_as_asked_for():
    options = {"train": 8, "validation": 8, "test": 8}
    sides = [load_video_text(VideoTextOptions(**options, object_size=size)).train for size in (0.25, 0.5)]
    assert [clips.pictures.objects_MHW.shape[1:] for clips in sides] == [(8, 8), (16, 16)]


def test_frame_times_are_one_of_each_segment():
    assert frame_times(8, 8, 1).tolist() == [list(range(8))]
    assert frame_times(8, 1, 1).tolist() == [[4]]
    assert frame_times(8, 2, 1).tolist() == [[2, 6]]
    times = frame_times(9, 4, 2000, torch.Generator().manual_seed(0))
    assert (times.diff(dim=1) >= 0).all()
    for segment in range(4):
        low, high = segment * 9 / 4, (segment + 1) * 9 / 4
        assert set(times[:, segment].tolist()) == set(range(int(low), int(high - 1e-9) + 1))


@pytest.mark.parametrize("frames", [0, 9])
def test_more_frames_than_a_clip_has_is_one_line(data, frames):
    with pytest.raises(InputError, match=f"{frames} asked for, but a clip has 8; allowed are 1 to 8"):
        data.train.fetch(torch.tensor([0]), frames)


@pytest.mark.parametrize("wrong", [{"frames": 2}, {"classes": 11}, {"events": ()}, {"clutter": 2}, {"colour": 1}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        VideoTextOptions(**wrong)
