"""Random views of a batch, every step vectorised over the images, so that the loader is never the bottleneck.

Crop, resize and flip are one affine sampling; colour operations take one random number per image. The recipes are
SimCLR's (Chen et al. 2020, appendix A) as SimSiam, MoCo v2 and BYOL adapted them to small images, without blur.

A batch is of images (B, C, H, W) or of clips (B, T, C, H, W): whatever is drawn is drawn once for all frames of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional as F

from naslab.errors import InputError
from naslab.search_spaces.data.images import WholeImages
from naslab.search_spaces.data.placing import constant
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Unless

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
CROP_TRIES = 10
COLOURS_ONLY = ("saturation", "hue", "grey_probability")
"""What does nothing to grey images."""


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    if not low <= high:
        raise ValueError(f"[{low:g}, {high:g}] is not from the smallest to the largest")
    return ends


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Shares = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], AfterValidator(_rising)
]
Span = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
JITTERED, BLURRED = Unless("jitter_probability", (0,)), Unless("blur_probability", (0,))


class AugmentationOptions(Options):
    """Strengths and probabilities; the defaults are SimSiam's for CIFAR. Jitter x draws factors from [1-x, 1+x]."""

    crop_scale: Shares = (0.2, 1.0)
    """Share of the area that a crop keeps."""
    crop_ratio: Span = (3 / 4, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    brightness: Annotated[float, JITTERED] = Field(0.4, ge=0, le=1)
    contrast: Annotated[float, JITTERED] = Field(0.4, ge=0, le=1)
    saturation: Annotated[float, JITTERED] = Field(0.4, ge=0, le=1)
    hue: Annotated[float, JITTERED] = Field(0.1, ge=0, le=0.5)
    jitter_probability: float = Field(0.8, ge=0, le=1)
    grey_probability: float = Field(0.2, ge=0, le=1)
    blur_probability: float = Field(0.0, ge=0, le=1)
    blur_sigma: Annotated[Span, BLURRED] = (0.1, 2.0)
    solarise_probability: float = Field(0.0, ge=0, le=1)

    @staticmethod
    def for_framework(framework: str, channels: int) -> AugmentationOptions:
        """The published recipe for small colour images; for grey ones a gentler crop and no colour."""
        if channels == 1:
            return AugmentationOptions(crop_scale=(0.45, 1.0))
        if framework == "simclr":
            return AugmentationOptions(crop_scale=(0.08, 1.0))
        if framework == "byol":
            return AugmentationOptions(crop_scale=(0.08, 1.0), saturation=0.2, solarise_probability=0.1)
        return AugmentationOptions()


class CropAndFlip(AugmentationOptions):
    """MAE's augmentation: crops of 20 to 100 % of the area and flips, no colour."""

    jitter_probability: float = Field(0, ge=0, le=1)
    grey_probability: float = Field(0, ge=0, le=1)


class Augmentation:
    """Random view and plain normalisation of uint8 images or clips, both to float32 of the same shape.

    Raises:
        InputError: an operation on colours is asked for, and the images are grey.
    """

    def __init__(self, options: AugmentationOptions, mean: Sequence[float], std: Sequence[float]) -> None:
        for name in COLOURS_ONLY if len(mean) != 3 else ():
            value = getattr(options, name)
            if name in options.model_fields_set and value not in (0, type(options).model_fields[name].default):
                raise InputError(f"task.augmentation.{name}: {value:g}, but the images are grey; leave it out")
        self.options = options
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: Tensor | WholeImages, generator: torch.Generator) -> Tensor:
        """One random view of each image; the generator, on the images' device, decides everything."""
        draw = _Draw(len(images), generator)
        view = crop_and_flip(images, self.options, draw)
        return self._standardise(colour(view, self.options, draw))

    def normalise(self, images: Tensor) -> Tensor:
        """The images themselves, standardised per channel."""
        return self._standardise(images.float() / 255)

    def _standardise(self, images: Tensor) -> Tensor:
        mean, std = (constant(values, images.device)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


class _Draw:
    """Random numbers (batch,) on the generator's device."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch, self.generator = batch, generator

    def uniform(self, low: float = 0.0, high: float = 1.0, times: int | None = None) -> Tensor:
        """One number an image, (batch,), or `times` of them, (times, batch)."""
        shape = (self.batch,) if times is None else (times, self.batch)
        return low + (high - low) * torch.rand(shape, device=self.generator.device, generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        return self.uniform() < probability


def crop_and_flip(images: Tensor | WholeImages, options: AugmentationOptions, draw: _Draw) -> Tensor:
    """Random resized crop and horizontal flip, values in [0, 1]."""
    if isinstance(images, WholeImages):
        boxes_B4 = crop_boxes(images.sizes_B2.to(draw.generator.device), options, draw)
        cropped = images.cut(boxes_B4).float() / 255
    else:
        sizes_B2 = constant(tuple(images.shape[-2:]), images.device).expand(len(images), 2)
        cropped = sample_boxes(images.float() / 255, crop_boxes(sizes_B2, options, draw))
    return torch.where(beside(draw.chance(options.flip), cropped), cropped.flip(-1), cropped)


def crop_boxes(sizes_B2: Tensor, options: AugmentationOptions, draw: _Draw) -> Tensor:
    """A box of each image, (top, left, height, width) in whole pixels, int64 (B, 4): torchvision's RandomResizedCrop.

    Area and log aspect ratio (width over height) are uniform; of ten tries the first that fits is taken. Where none
    does, it is the largest box of an allowed ratio in the middle.

    Args:
        sizes_B2: height and width of each image.
    """
    height, width = sizes_B2.float().unbind(1)
    low, high = options.crop_ratio
    area = draw.uniform(*options.crop_scale, times=CROP_TRIES) * height * width
    ratio = draw.uniform(math.log(low), math.log(high), times=CROP_TRIES).exp()
    tried = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()], 2)
    fits = ((tried > 0) & (tried <= sizes_B2)).all(2)
    first = fits.int().argmax(0)
    box_B2 = tried[first, torch.arange(len(first), device=first.device)].long()
    middle = torch.stack([(width / low).round().minimum(height), (height * high).round().minimum(width)], 1).long()
    box_B2 = torch.where(fits.any(0)[:, None], box_B2, middle)
    room_B2 = sizes_B2 - box_B2
    place = torch.stack([draw.uniform(), draw.uniform()], 1)
    corner_B2 = (place * (room_B2 + 1)).long().minimum(room_B2)
    corner_B2 = torch.where(fits.any(0)[:, None], corner_B2, room_B2 // 2)
    return torch.cat([corner_B2, box_B2], 1)


def sample_boxes(images: Tensor, boxes_B4: Tensor) -> Tensor:
    """Resample one box (top, left, height, width), in pixels, of each image or clip to the full size, bilinearly."""
    height, width = images.shape[-2:]
    planes = images.flatten(1, -3)  # frames of a clip are resampled as if they were channels of one image
    top_B, left_B, tall_B, wide_B = boxes_B4.unbind(1)
    rows_BHW, columns_BHW = torch.broadcast_tensors(
        _places(top_B, tall_B, height)[:, :, None], _places(left_B, wide_B, width)[:, None]
    )
    grid = torch.stack([columns_BHW, rows_BHW], -1)
    sampled = F.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return sampled.view(images.shape)


def _places(start_B: Tensor, length_B: Tensor, size: int) -> Tensor:
    """Where the middles of `size` equal parts of each box lie on a side of `size` pixels that goes from -1 to 1."""
    middles = (torch.arange(size, device=start_B.device) + 0.5) / size
    return (start_B[:, None] + length_B[:, None] * middles) * (2 / size) - 1


def beside(values_B: Tensor, images: Tensor) -> Tensor:
    """One value an image, shaped to go with the images or clips."""
    return values_B.view(-1, *[1] * (images.ndim - 1))


def colour(images: Tensor, options: AugmentationOptions, draw: _Draw) -> Tensor:
    """Jitter, grey, blur and solarisation, each on a random part of the batch; values stay in [0, 1]."""
    images = torch.where(
        beside(draw.chance(options.jitter_probability), images), _jitter(images, options, draw), images
    )
    if images.shape[-3] == 3 and options.grey_probability:
        images = torch.where(beside(draw.chance(options.grey_probability), images), grey(images), images)
    if options.blur_probability:
        blurred = blur(images, draw.uniform(*options.blur_sigma))
        images = torch.where(beside(draw.chance(options.blur_probability), images), blurred, images)
    if options.solarise_probability:
        solarised = torch.where(images >= 0.5, 1 - images, images)
        images = torch.where(beside(draw.chance(options.solarise_probability), images), solarised, images)
    return images


def _jitter(images: Tensor, options: AugmentationOptions, draw: _Draw) -> Tensor:
    if options.brightness:
        images = brightness(images, beside(draw.uniform(1 - options.brightness, 1 + options.brightness), images))
    if options.contrast:
        images = contrast(images, beside(draw.uniform(1 - options.contrast, 1 + options.contrast), images))
    if images.shape[-3] != 3:
        return images
    if options.saturation:
        images = saturation(images, beside(draw.uniform(1 - options.saturation, 1 + options.saturation), images))
    if options.hue:
        images = hue(images, beside(draw.uniform(-options.hue, options.hue), images))
    return images


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the values; here and below one factor per image, shaped to go with the images."""
    return (images * factor).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of each image's grey form."""
    mean = grey(images).mean(tuple(range(1, images.ndim)), keepdim=True)
    return (factor * images + (1 - factor) * mean).clamp(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's grey form."""
    return (factor * images + (1 - factor) * grey(images)).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luma in every channel; an image of one channel is its own."""
    if images.shape[-3] != 3:
        return images
    weights = constant(GREY_WEIGHTS, images.device)[:, None, None]
    return (images * weights).sum(-3, keepdim=True).expand_as(images)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by a share of the full circle, through HSV.

    The channel of hue h is v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6 and n = 5, 3, 1 for R, G, B.
    """
    value, _ = images.max(-3, keepdim=True)
    chroma = value - images.min(-3, keepdim=True).values
    r, g, b = images.split(1, -3)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sixth = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    turned = sixth + 6 * shift
    n = constant((5.0, 3.0, 1.0), images.device)[:, None, None]
    k = (n + turned) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def blur(images: Tensor, sigma_B: Tensor) -> Tensor:
    """Gaussian blur with one sigma (pixels) per image, kernel a tenth of the side, odd, at least 3."""
    batch, height, width = len(images), *images.shape[-2:]
    planes = images[0].numel() // (height * width)
    radius = max(height // 20, 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_B[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(planes, 0)[:, None, None, :]
    flat = F.pad(images.reshape(1, batch * planes, height, width), (radius,) * 4, mode="reflect")
    across = F.conv2d(flat, kernel, groups=batch * planes)
    return F.conv2d(across, kernel.transpose(2, 3), groups=batch * planes).view_as(images)
