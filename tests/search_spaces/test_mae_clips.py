"""Pre-training of the video form on clips: the task that images have, and what clips add."""

import itertools

import pytest
import torch
from videos import encode

from naslab.errors import InputError
from naslab.runs.study import parse_study
from naslab.search_spaces import find_space
from naslab.search_spaces.common.training.finetune import FinetuneOptions

SMALL = {"dataset": {"train": 256, "validation": 64, "test": 64, "frames": 8}, "batch_size": 32, "epochs": 2}
FINETUNE = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-2}
SIZES = {"depth": 2, "width": 32, "frames": 4, "published_decoder": (1, 16)}
MAE_ST = {"positions": "separable", "predicted_frames": "one"}
VIDEO_MAE = {
    "positions": "sinusoid", "class_token": False, "predicted_frames": "all", "normalised_by": "channel",
    "clip_mask": "tube", "decoder_keep": 0.5,
}  # fmt: skip


def make(space=None, **options):
    """The task as a study file makes it."""
    document = {
        "schema": "naslab.study/1",
        "name": "clips",
        "space": {"name": "mae", "preset": "tiny-video", "options": {**SIZES, **(space or {})}},
        "task": {**SMALL, **options},
        "arms": [{"name": "masks", "engine": "grid", "vary": {"mask": ["agnostic", "tube"]}}],
    }
    return parse_study(document, "clips.yaml").make_task(torch.device("cpu"))


def trained(task, stop_after=None, checkpoint=None):
    torch.manual_seed(0)
    model = task.space.build(task.space.reference)
    return model, list(itertools.islice(task.train(model, 5, checkpoint), stop_after))


@pytest.mark.parametrize("form", [MAE_ST, VIDEO_MAE], ids=["mae-st", "videomae-v2"])
def test_training_lowers_the_loss_of_either_form(form):
    _, rungs = trained(make(form, epochs=4, learning_rate=8e-3))
    assert [rung.epoch for rung in rungs] == [1, 2, 3, 4]
    assert rungs[-1].facts["loss"] < rungs[0].facts["loss"] - 0.02


def test_a_resumed_training_ends_bit_for_bit_like_an_unbroken_one(tmp_path):
    task = make()
    whole, rungs = trained(task)
    _, first = trained(task, stop_after=1, checkpoint=tmp_path / "c")
    torch.manual_seed(99)
    resumed = task.space.build(task.space.reference)
    rest = list(task.train(resumed, 5, tmp_path / "c"))
    assert [*first[:-1], *rest] == rungs  # the rung of the checkpoint is told again
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_scores_and_controls_are_those_of_images():
    task = make(labels_per_class=5, finetune=FINETUNE, epochs=1)
    model, _ = trained(task)
    names = {"knn_top1", "linear_top1", "finetune_top1"}
    names |= {f"few_{name}" for name in names}
    scores = task.evaluate(model, "test")
    assert set(scores) == names
    assert scores == task.evaluate(model, "test")
    controls = {control.name: control.measure(0, "test") for control in task.controls()}
    assert set(controls) == {"raw_pixels", "untrained", "scratch"}
    assert set(controls["untrained"]) == set(controls["scratch"]) == names
    assert all(0 <= value <= 100 for found in (scores, *controls.values()) for value in found.values())


def test_supervised_training_from_scratch_tells_the_direction():
    """What no single frame tells is there to be learnt: the clips, their labels and the clips' views fit together."""
    task = make(
        {"width": 64}, augmentation={"crop_scale": [0.8, 1], "flip": 0}, dataset={**SMALL["dataset"], "train": 512}
    )
    torch.manual_seed(0)
    model = task.space.build(task.space.reference)
    recipe = FinetuneOptions(batch_size=64, learning_rate=8e-3)
    tuned = task.scores.tuned(task._classifier(model), recipe, steps=100, seed=0, layer_decay=1.0)
    assert task.scores.accuracies(tuned, "test")["finetune_top1"] > 50


def test_fine_tuning_reaches_every_parameter_of_the_encoder():
    task = make(MAE_ST, finetune=FINETUNE)
    model = task.space.build(task.space.reference)
    options = FinetuneOptions(**FINETUNE)
    tuned = task.scores.tuned(task._classifier(model), options, 4, 0, options.layer_decay)["finetune_top1"]
    decoder = ("decoder", "narrow", "mask_token", "head", "norm")  # the classifier has a norm of its own
    for name, before in model.named_parameters():
        after = tuned.model.get_parameter(name)
        assert torch.equal(before, after) is name.startswith(decoder), name


def test_raw_pixels_of_large_clips_are_no_control():
    task = make()
    assert "raw_pixels" in {control.name for control in task.controls()}
    task.space = find_space("mae", "paper-video")
    assert "raw_pixels" not in {control.name for control in task.controls()}


def test_nothing_is_mirrored_where_the_label_is_a_direction():
    assert make().augmentation.options.flip == 0
    assert make(dataset={**SMALL["dataset"], "label": "object"}).augmentation.options.flip == 0.5
    given = {"crop_scale": [0.5, 1], "flip": 0.5}
    with pytest.raises(InputError, match=r"task\.augmentation\.flip: 0\.5 would make labels of direction wrong; use 0"):
        make(augmentation=given)
    assert make(augmentation={**given, "flip": 0}).augmentation.options.jitter_probability == 0


def test_example_input_proves_an_export():
    task = make()
    model = task.space.build(task.space.reference).eval()
    assert task.example_input(3)["images"].shape == (3, 4, 1, 32, 32)
    first, second = model(**task.example_input(3)), model(**task.example_input(3))
    assert torch.equal(first.loss, second.loss)


@pytest.mark.parametrize(
    ("space", "task", "line"),
    [
        ({"frames": 5}, {}, r"space\.options\.frames: 5 is not divisible by the 2 of a tubelet"),
        (
            {"frames": 10},
            {},
            r"space\.options\.frames: 10 at a task\.dataset\.stride of 1 span 10 frames, more than the 8",
        ),
        ({"in_channels": 3}, {}, "generated has 1x32x32 frames, the space takes 3x32x32"),
        ({"image_size": 64}, {}, "generated has 1x32x32 frames, the space takes 1x64x64"),
        ({}, {"batch_size": 300}, r"task\.batch_size: 300 is more than the 256 training clips"),
        ({}, {"dataset": {"name": "embedded"}}, r"task\.dataset\.name: .* 'generated' or 'folder'"),
        ({}, {"dataset": {"name": "folder"}}, r"task\.dataset\.root: missing"),
        ({}, {"dataset": {"name": "folder", "root": "/nowhere"}}, "/nowhere: no such folder"),
        ({"class_token": False}, {"pool": "class"}, r"task\.pool: class needs space\.options\.class_token"),
        ({"frames": 1}, {}, r"task\.dataset\.frames: unknown key"),
    ],
)
def test_what_does_not_fit_is_one_line(space, task, line):
    with pytest.raises(InputError, match=line) as caught:
        make(space, **task)
    assert "\n" not in str(caught.value)


def test_videos_in_class_folders_are_trained_on(tmp_path):
    for split, number in (("train", 8), ("val", 3)):
        for name, level in (("dark", 20), ("light", 200)):
            for n in range(number):
                encode(tmp_path / split / name / f"{n}.mp4", frames=8, level=lambda t, v=level: v + t)
    (tmp_path / "train" / "dark" / "0.mp4").write_text("no video")
    dataset = {"name": "folder", "root": str(tmp_path), "frames": 6, "image_size": 16, "validation": 4}
    space = {"in_channels": 3, "image_size": 16, "published_patch": 4}
    with pytest.warns(UserWarning, match=r"1 of 16 videos left out: train/dark/0\.mp4"):
        task = make(space, dataset=dataset, batch_size=8, metric="knn_top1")
    model, rungs = trained(task)
    assert all(rung.facts["loss"] >= 0 for rung in rungs)
    assert task.evaluate(model, "test")["linear_top1"] == 100
