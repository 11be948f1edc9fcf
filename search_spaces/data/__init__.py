"""Data sets by name or path, as uint8 images in three disjoint splits, and random views of them."""

from naslab.search_spaces.data.augment import Augmentation, AugmentationOptions, CropAndFlip
from naslab.search_spaces.data.datasets import DatasetOptions, ImageData, check_fit, few_labels, load_dataset
from naslab.search_spaces.data.images import FileImages, ImageSet, MemoryImages

__all__ = [
    "Augmentation",
    "AugmentationOptions",
    "CropAndFlip",
    "DatasetOptions",
    "FileImages",
    "ImageData",
    "ImageSet",
    "MemoryImages",
    "check_fit",
    "few_labels",
    "load_dataset",
]
