import pytest
import torch
from pydantic import ValidationError
from scipy.stats import ks_2samp
from torchvision import transforms
from torchvision.transforms.v2 import functional as tv

from naslab.errors import InputError
from naslab.search_spaces.data import Augmentation, AugmentationOptions, CropAndFlip
from naslab.search_spaces.data.augment import (
    _Draw,
    blur,
    brightness,
    contrast,
    crop_boxes,
    grey,
    hue,
    sample_boxes,
    saturation,
)
from naslab.search_spaces.options import explain

IMAGES = torch.rand(5, 3, 17, 17, generator=torch.Generator().manual_seed(0))


def column(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (brightness, tv.adjust_brightness),
        (contrast, tv.adjust_contrast),
        (saturation, tv.adjust_saturation),
    ],
)
def test_colour_operations_agree_with_torchvision(ours, theirs):
    factors = (0.6, 0.9, 1.0, 1.2, 1.4)
    expected = torch.stack([theirs(image, factor) for image, factor in zip(IMAGES, factors, strict=True)])
    assert torch.allclose(ours(IMAGES, column(*factors)), expected, atol=2e-3)


def test_hue_agrees_with_torchvision():
    shifts = (-0.5, -0.1, 0.0, 0.05, 0.3)
    expected = torch.stack([tv.adjust_hue(image, shift) for image, shift in zip(IMAGES, shifts, strict=True)])
    assert torch.allclose(hue(IMAGES, column(*shifts)), expected, atol=1e-4)


def test_hue_leaves_grey_pixels_alone():
    flat = torch.full((1, 3, 4, 4), 0.3)
    assert torch.allclose(hue(flat, column(0.2)), flat)


def test_grey_agrees_with_torchvision():
    assert torch.allclose(grey(IMAGES), tv.rgb_to_grayscale(IMAGES, 3), atol=2e-3)


def test_blur_agrees_with_torchvision():
    for sigma in (0.4, 1.5):
        ours = blur(IMAGES, torch.full((5,), sigma))
        assert torch.allclose(ours, tv.gaussian_blur(IMAGES, [3, 3], [sigma, sigma]), atol=1e-5)


def test_the_whole_box_is_the_image():
    assert torch.allclose(sample_boxes(IMAGES, torch.tensor([[0, 0, 17, 17]] * 5)), IMAGES, atol=1e-5)


def test_a_box_is_the_crop_resized():
    images = torch.rand(2, 1, 16, 12, generator=torch.Generator().manual_seed(0))
    ours = sample_boxes(images, torch.tensor([[3, 2, 8, 6], [1, 0, 4, 12]]))
    for image, (top, left, height, width) in zip(range(2), ((3, 2, 8, 6), (1, 0, 4, 12)), strict=True):
        crop = images[image : image + 1, :, top : top + height, left : left + width]
        theirs = torch.nn.functional.interpolate(crop, size=(16, 12), mode="bilinear")[0]
        # At the edges the box sees its neighbours, a crop does not.
        y, x = -(-8 // height), -(-12 // width)
        assert torch.allclose(ours[image, :, y:-y, x:-x], theirs[:, y:-y, x:-x], atol=1e-5)


def test_half_of_the_views_are_mirrored():
    options = AugmentationOptions(crop_scale=(1, 1), crop_ratio=(1, 1), jitter_probability=0, grey_probability=0)
    images = (IMAGES * 255).to(torch.uint8)[:1].expand(2000, -1, -1, -1)
    views = Augmentation(options, (0.0,) * 3, (1.0,) * 3)(images, torch.Generator().manual_seed(0))
    plain = images[0].float() / 255
    mirrored = torch.tensor([torch.allclose(view, plain.flip(2), atol=1e-4) for view in views])
    assert all(torch.allclose(view, plain, atol=1e-4) for view in views[~mirrored])
    assert abs(int(mirrored.sum()) - 1000) < 4 * (2000 / 4) ** 0.5


@pytest.mark.parametrize("size", [(32, 32), (40, 25), (9, 60), (60, 9), (4, 5)])
@pytest.mark.parametrize(("scale", "ratio"), [((0.2, 1.0), (3 / 4, 4 / 3)), ((0.08, 1.0), (0.5, 1.0))])
def test_crops_have_the_distribution_of_torchvision(size, scale, ratio):
    """Height, width, place and area of both by Kolmogorov and Smirnov: both draw whole pixels, ten times at most."""
    number = 4000
    options = AugmentationOptions(crop_scale=scale, crop_ratio=ratio)
    draw = _Draw(number, torch.Generator().manual_seed(0))
    ours = crop_boxes(torch.tensor(size).expand(number, 2), options, draw)
    torch.manual_seed(1)
    image = torch.empty(1, *size)
    theirs = torch.tensor([transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(number)])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor(size)).all()
    columns = {"top": 0, "left": 1, "height": 2, "width": 3}
    for name, column in columns.items():
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-5, name
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-5


@pytest.mark.parametrize("framework", ["simsiam", "simclr", "mocov2", "byol"])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_random_per_image_and_repeat_with_the_generator(framework, channels):
    options = AugmentationOptions.for_framework(framework, channels)
    augment = Augmentation(options, (0.5,) * channels, (0.2,) * channels)
    image = torch.randint(0, 256, (1, channels, 28, 28), dtype=torch.uint8).expand(6, -1, -1, -1)
    views = augment(image, torch.Generator().manual_seed(1))
    assert views.dtype == torch.float32
    assert views.isfinite().all()
    assert len({view.numpy().tobytes() for view in views}) == 6
    assert torch.equal(views, augment(image, torch.Generator().manual_seed(1)))
    assert not torch.equal(views, augment(image, torch.Generator().manual_seed(2)))


def test_without_strength_a_view_is_the_normalised_image():
    options = AugmentationOptions(
        crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0, jitter_probability=0, grey_probability=0
    )
    augment = Augmentation(options, (0.3,), (0.5,))
    images = torch.randint(0, 256, (4, 1, 12, 12), dtype=torch.uint8)
    assert torch.allclose(augment(images, torch.Generator()), augment.normalise(images), atol=1e-4)
    assert torch.allclose(augment.normalise(images), (images.float() / 255 - 0.3) / 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_view_is_drawn_for_all_frames_of_a_clip(channels):
    """A clip of one frame repeated gives a view of one frame repeated, and other clips of the batch other views."""
    strong = AugmentationOptions(blur_probability=0.7, solarise_probability=0.5)
    augment = Augmentation(strong, (0.5,) * channels, (0.2,) * channels)
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(0, 256, (1, 1, channels, 20, 20), dtype=torch.uint8, generator=generator)
    views = augment(still.expand(6, 4, -1, -1, -1), generator)
    assert views.shape == (6, 4, channels, 20, 20)
    assert torch.allclose(views, views[:, :1].expand_as(views), atol=1e-5)
    assert len({view.numpy().tobytes() for view in views}) == 6


def test_a_clip_of_one_frame_is_augmented_as_its_image():
    strong = AugmentationOptions(blur_probability=0.7, solarise_probability=0.5)
    augment = Augmentation(strong, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    images = (IMAGES * 255).to(torch.uint8)
    image_views, clip_views = (augment(x, torch.Generator().manual_seed(3)) for x in (images, images.unsqueeze(1)))
    assert torch.allclose(clip_views.squeeze(1), image_views, atol=1e-5)
    assert torch.equal(augment.normalise(images.unsqueeze(1)).squeeze(1), augment.normalise(images))


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"crop_scale": [0.8, 0.2]}, "crop_scale"),
        ({"crop_scale": [0, 1]}, "crop_scale"),
        ({"crop_scale": [0.2, 1.5]}, "crop_scale"),
        ({"crop_ratio": [0, 1]}, "crop_ratio"),
        ({"crop_ratio": [2, 1]}, "crop_ratio"),
        ({"blur_probability": 1, "blur_sigma": [0, 0]}, "blur_sigma"),
        ({"blur_sigma": [1, 2]}, "blur_sigma: applies only with blur_probability other than 0"),
        *(
            ({"jitter_probability": 0, name: 0.2}, f"{name}: applies only with jitter_probability other than 0")
            for name in ("brightness", "contrast", "saturation", "hue")
        ),
    ],
)
def test_strengths_that_cannot_be_or_do_nothing_are_refused(wrong, option):
    with pytest.raises(ValidationError) as error:
        AugmentationOptions(**wrong)
    assert option in explain(error.value)


@pytest.mark.parametrize("name", ["saturation", "hue", "grey_probability"])
def test_colour_operations_on_grey_images_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: 0.3, but the images are grey"):
        Augmentation(AugmentationOptions(**{name: 0.3}), (0.5,), (0.2,))
    Augmentation(AugmentationOptions(**{name: 0.3}), (0.5,) * 3, (0.2,) * 3)
    Augmentation(AugmentationOptions(**{name: 0}), (0.5,), (0.2,))


def test_crop_and_flip_has_no_colour_unless_asked_for():
    changed = CropAndFlip(flip=0)
    assert (changed.jitter_probability, changed.grey_probability) == (0, 0)
    with pytest.raises(ValidationError, match="jitter_probability"):
        CropAndFlip(hue=0.3)
