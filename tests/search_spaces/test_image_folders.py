"""Image files as they are found in the wild: split folders, pixel formats, broken and foreign files."""

import io
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from naslab.errors import InputError
from naslab.search_spaces.data import (
    Augmentation,
    AugmentationOptions,
    DatasetOptions,
    FileImages,
    images,
    load_dataset,
)
from naslab.search_spaces.data.folders import class_folders
from naslab.search_spaces.data.pixels import IMAGE_SUFFIXES, read_rgb, trouble_with_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP.T, 255 - RAMP], 2)


def load(root, **options):
    return load_dataset(DatasetOptions(name="folder", root=root, image_size=16, **{"validation": 2, **options}))


def tree(root, **numbers):
    """So many images of two classes in each split folder: all pixels of an image are 100 x class + number."""
    for split, number in numbers.items():
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (20, 24), (100 * label + i,) * 3).save(folder / f"{i}.png")


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "val"), ("train", "valid"), ("train", "validation"), ("Train", "Val"), ("training", "testing"),
        ("TRAIN", "TEST"), ("Training", "Validation"), ("train", "dev"), ("train", "eval"), ("train", "test"),
        ("train", "Evaluation"), ("train", "development"), ("train2017", "val2017"), ("Training_Set", "Test_Set"),
    ],
)  # fmt: skip
def test_split_folders_are_known_by_any_of_their_names(tmp_path, train, held_out):
    tree(tmp_path, **{train: 6, held_out: 3})
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 2, 6)


def test_images_of_a_class_may_lie_in_one_folder_beside_a_list(tmp_path):
    """Tiny ImageNet: train/CLASS/images/ beside CLASS_boxes.txt."""
    for split in ("train", "val"):
        tree(tmp_path / split / "cat", images=3)
        tree(tmp_path / split / "dog", images=3)
        for name in ("cat", "dog"):
            (tmp_path / split / name / "boxes.txt").write_text("0 0 9 9")
    with pytest.warns(UserWarning, match=r"boxes\.txt"):
        found = class_folders(tmp_path, "images", IMAGE_SUFFIXES, 0)
    assert (found.classes, len(found.train.paths)) == (("cat", "dog"), 12)


def test_a_strip_takes_no_more_memory_than_what_is_kept_of_it(monkeypatch):
    resized, resize = [], Image.Image.resize

    def watched(image, size, *arguments, **keywords):
        resized.append(size)
        return resize(image, size, *arguments, **keywords)

    monkeypatch.setattr(Image.Image, "resize", watched)
    strip = np.zeros((2, 6000, 3), np.uint8)
    strip[:, 2999:3001] = 255
    for pixels in (strip, strip.transpose(1, 0, 2)):
        square = images.centre_square(Image.fromarray(pixels), 64)
        assert square.shape == (3, 64, 64)
        assert square.float().mean() > 200, "the middle is kept"
    assert max(width * height for width, height in resized) <= 8 * 64 * 64


def test_of_three_split_folders_each_has_its_part(tmp_path):
    tree(tmp_path, train=6, valid=4, test=3)
    data = load(tmp_path, validation=1000)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 8, 6)
    assert (len(load(tmp_path).validation), len(load(tmp_path, train=12).train)) == (2, 12)


def test_a_class_may_be_called_as_a_split(tmp_path):
    """A train among vehicles is no split: nothing is held out in a folder of its own."""
    for name in ("train", "bus"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("L", (16, 16), i).save(tmp_path / name / f"{i}.png")
    assert load(tmp_path).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("val", "test"), r"holds test/ and val/ alone; splits are train/ with val/ or test/"),
        (("train",), r"holds train/ alone"),
        (("train", "val", "valid"), r"both val/ and valid/ are called validation; keep one"),
        (("one", "two"), r"one: holds no images but folders; the images of a class lie in its own folder"),
        (("train", "other"), r"other: holds no images but folders"),
    ],
)
@pytest.mark.parametrize("listed", [False, True], ids=["", "with a list of labels"])
def test_folders_that_are_no_splits_are_no_classes_either(tmp_path, splits, message, listed):
    tree(tmp_path, **dict.fromkeys(splits, 2))
    for split in splits if listed else ():
        (tmp_path / split / "labels.csv").write_text("file,label")
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_what_is_ignored_is_counted_and_said(tmp_path):
    tree(tmp_path, train=4, val=4)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "val" / "dog" / "Thumbs.db").write_text("no image")
    (tmp_path / "val" / "bird").mkdir()
    (tmp_path / "extra").mkdir()
    with pytest.warns(UserWarning, match="ignored") as said:
        found = class_folders(tmp_path, "images", IMAGE_SUFFIXES, 0)
    messages = sorted(str(warning.message).removeprefix(str(tmp_path)) for warning in said)
    assert messages == [
        "/train: 1 files that are no images ignored: cat/notes.txt",
        "/val: 1 class folders that train/ does not have ignored: bird",
        "/val: 1 files that are no images ignored: dog/Thumbs.db",
        ": 1 folders that are no split ignored: extra",
    ]
    assert (len(found.train.paths), len(found.test.paths)) == (8, 8)


def test_hidden_files_are_nobodys(tmp_path):
    tree(tmp_path, train=4, val=4)
    for hidden in ("._0.png", ".DS_Store"):
        (tmp_path / "train" / "cat" / hidden).write_bytes(b"resource fork")
    for folder in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "train" / folder).mkdir()
        (tmp_path / "train" / "cat" / folder).mkdir()
        (tmp_path / "train" / "cat" / folder / "a.png").write_bytes(b"no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(tmp_path).train) == 6


def broken(kind):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole, "JPEG" if kind.endswith("jpg") else "PNG")
    data = whole.getvalue()
    if kind == "bomb.png":  # a header that claims 60,000 x 60,000 pixels
        return data[:16] + (60_000).to_bytes(4, "big") * 2 + data[24:]
    if kind == "chunk.png":
        return data[:40] + b"\0" * 20 + data[60:]
    return {"cut": data[: len(data) // 2], "empty": b"", "text": b"not an image"}[kind.split(".")[0]]


@pytest.mark.parametrize("kind", ["cut.jpg", "cut.png", "empty.png", "text.jpg", "bomb.png", "chunk.png"])
def test_broken_images_are_found_before_the_study_begins(tmp_path, kind):
    tree(tmp_path, train=4, val=4)
    (tmp_path / "train" / "cat" / kind).write_bytes(broken(kind))
    with pytest.warns(UserWarning, match=rf"folder, train \(.*\): 1 of 9 images left out: .*{re.escape(kind)} \(.+\)"):
        data = load(tmp_path)
    assert (len(data.train), len(data.validation)) == (6, 2)
    data.train.fetch(torch.arange(6))


def test_where_no_image_can_be_read_the_first_trouble_is_said(tmp_path):
    tree(tmp_path, train=2, val=2)
    for path in (tmp_path / "val").glob("*/*.png"):
        path.write_bytes(b"not an image")
    with pytest.warns(UserWarning, match="4 of 4"), pytest.raises(InputError, match="none of 4 images can be used"):
        load(tmp_path)


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return np.asarray(read_rgb(tmp_path / name)).astype(int)


def grey(values):
    return np.repeat(values[..., None].astype(int), 3, 2)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, name):
    image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert np.array_equal(saved(tmp_path, image, name), grey(RAMP))


def test_sixteen_bits_of_the_other_byte_order_are_scaled(tmp_path):
    image = Image.fromarray((RAMP.astype(np.uint16) * 257).astype(">u2"))
    assert np.array_equal(saved(tmp_path, image, "a.tif"), grey(RAMP))


def test_pixels_of_32_bits_are_refused(tmp_path):
    for values in (RAMP.astype(np.float32), RAMP.astype(np.int32)):
        Image.fromarray(values).save(tmp_path / "a.tif")
        assert "pixels of 32 bits" in trouble_with_image(tmp_path / "a.tif")


def test_grey_two_level_palette_alpha_and_print_colours(tmp_path):
    assert np.array_equal(saved(tmp_path, Image.fromarray(RAMP), "grey.png"), grey(RAMP))
    two = Image.fromarray(((RAMP > 99) * 255).astype(np.uint8)).convert("1")
    assert np.array_equal(saved(tmp_path, two, "two.png"), grey((RAMP > 99) * 255))
    colour = Image.fromarray(COLOUR)
    few = colour.quantize(16)
    assert np.array_equal(saved(tmp_path, few, "palette.png"), np.asarray(few.convert("RGB")).astype(int))
    assert np.array_equal(saved(tmp_path, few, "palette.gif"), np.asarray(few.convert("RGB")).astype(int))
    clear = colour.copy()
    clear.putalpha(Image.fromarray(RAMP))
    assert np.array_equal(saved(tmp_path, clear, "alpha.png"), COLOUR.astype(int))
    assert np.abs(saved(tmp_path, colour.convert("CMYK"), "print.tif") - COLOUR).max() <= 1
    bright = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(saved(tmp_path, bright, "print.jpg", quality=95)[8, 8] - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a), (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)), (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)), (8, lambda a: np.rot90(a)),
    ],
)  # fmt: skip
def test_images_stand_upright(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = saved(tmp_path, Image.fromarray(COLOUR[:12]), "a.png", exif=exif)
    assert np.array_equal(found, turn(COLOUR[:12].astype(int)))


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".JPG", ".tiff", ".webp", ".bmp", ".ppm"])
def test_every_usual_container_is_read(tmp_path, suffix):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            kind = {".jfif": "JPEG"}.get(suffix)
            Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / name / f"{i}{suffix}", kind)
    assert len(load(tmp_path).train) == 6


def test_random_crops_are_of_the_whole_image_and_the_plain_form_of_its_centre(tmp_path):
    """Of an image three times as wide as high, red in the left third and blue in the right one."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, :30, 0] = pixels[:, 60:, 2] = 255
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    train = load(tmp_path).train
    assert train.fetch(torch.tensor([0]))[0, :, :, 2:-2].max() == 0
    options = AugmentationOptions(flip=0, jitter_probability=0, grey_probability=0)
    augment = Augmentation(options, (0.0,) * 3, (1.0,) * 3)
    views = augment(train.whole(torch.zeros(64, dtype=torch.long)), torch.Generator().manual_seed(0))
    assert views.shape == (64, 3, 16, 16)
    seen = (views > 0.9).flatten(2).any(2).sum(0)
    assert seen[0] > 10
    assert seen[2] > 10
    again = augment(train.whole(torch.zeros(64, dtype=torch.long)), torch.Generator().manual_seed(0))
    assert torch.equal(views, again)


def test_a_cut_box_is_the_crop_resized(tmp_path):
    Image.fromarray(COLOUR[:14]).save(tmp_path / "a.png")
    images = FileImages([tmp_path / "a.png"] * 3, torch.zeros(3), side=7).whole(torch.arange(3))
    assert images.sizes_B2.tolist() == [[14, 16]] * 3
    cut = images.cut(torch.tensor([[0, 0, 7, 7], [7, 9, 7, 7], [4, 2, 1, 1]]))
    for found, (top, left) in zip(cut, ((0, 0), (7, 9)), strict=False):
        assert torch.equal(found, torch.from_numpy(COLOUR[top : top + 7, left : left + 7]).permute(2, 0, 1))
    assert (cut[2].permute(1, 2, 0) == torch.from_numpy(COLOUR[4, 2])).all()


def test_the_next_pass_over_the_same_files_reads_none_again(tmp_path, monkeypatch):
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "images"
    tree(root, train=4, val=4)
    (root / "train" / "cat" / "bad.png").write_bytes(b"not an image")
    read = []
    monkeypatch.setattr(images, "trouble_with_image", lambda path: read.append(path) or trouble_with_image(path))
    with pytest.warns(UserWarning, match="1 of 9 images left out"):
        first = load(root)
    assert len(read) == 17
    with pytest.warns(UserWarning, match=r"1 of 9 images left out: .*bad.png \(.+\)"):
        again = load(root)
    assert len(read) == 17
    assert again.train.paths == first.train.paths
    Image.new("RGB", (16, 16)).save(root / "train" / "cat" / "bad.png")
    assert len(load(root).train) == 7
    assert len(read) == 17 + 9


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path / "cache"))
    tree(tmp_path / "images", train=4, val=4)
    assert len(load(tmp_path / "images").train) == 6


@pytest.mark.parametrize("name", ["@eaDir", "lost+found", "$RECYCLE.BIN", ".ipynb_checkpoints", "__MACOSX"])
def test_folders_of_the_file_system_are_no_classes(tmp_path, name):
    tree(tmp_path, train=6, val=3)
    (tmp_path / "train" / name).mkdir()
    assert load(tmp_path).classes == ("cat", "dog")


def test_images_beside_the_class_folders_are_said(tmp_path):
    tree(tmp_path, train=6, val=3)
    Image.new("L", (16, 16)).save(tmp_path / "train" / "loose.png")
    with pytest.warns(UserWarning, match=r"1 images that lie in no class folder ignored: loose\.png"):
        load(tmp_path)


def test_of_few_images_one_is_the_test_part(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("L", (16, 16), i).save(tmp_path / name / f"{i}.png")
    assert len(load(tmp_path, validation=1).test) == 1


def test_a_root_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tree(tmp_path / "pets", train=6, val=3)
    assert load("~/pets").classes == ("cat", "dog")
