import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from naslab.search_spaces.data import Augmentation, AugmentationOptions
from naslab.search_spaces.data.augment import blur, brightness, contrast, grey, hue, sample_boxes, saturation

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


def test_the_whole_box_is_the_image_and_a_mirrored_one_its_flip():
    one, zero = torch.ones(5), torch.zeros(5)
    assert torch.allclose(sample_boxes(IMAGES, one, one, zero, zero, one), IMAGES, atol=1e-5)
    assert torch.allclose(sample_boxes(IMAGES, one, one, zero, zero, -one), IMAGES.flip(3), atol=1e-5)


def test_a_box_is_the_crop_resized():
    images = torch.rand(2, 1, 16, 16)
    half, centre = torch.full((2,), 0.5), torch.full((2,), -0.5)
    ours = sample_boxes(images, half, half, centre, centre, torch.ones(2))
    theirs = torch.nn.functional.interpolate(images[:, :, :8, :8], size=(16, 16), mode="bilinear")
    assert torch.allclose(ours[:, :, 1:-1, 1:-1], theirs[:, :, 1:-1, 1:-1], atol=1e-5)


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
