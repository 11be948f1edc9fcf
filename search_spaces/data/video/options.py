"""What a study file may say about video, with text or with labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from naslab.search_spaces.options import Options, UserPath
from naslab.search_spaces.parameters import When

GENERATED = When("name", ("generated",))
RECORDED = When("name", ("folder", "msrvtt", "msvd", "didemo", "tgif_qa"))

Event = Literal["move", "turn", "cross", "sequence", "replace", "presence"]
Kind = Literal["direction", "order", "presence", "object", "count", "choice"]

ALL_EVENTS: tuple[Event, ...] = ("move", "turn", "cross", "sequence", "replace", "presence")
ALL_KINDS: tuple[Kind, ...] = ("direction", "order", "presence", "object", "count", "choice")


class VideoOptions(Options):
    """What all clips have in common, whatever is known about them (docs/video-data.md)."""

    root: Annotated[UserPath | None, RECORDED] = None
    """Folder of the videos and of their annotation files, if they have any."""
    train: int | None = Field(None, gt=0)
    """How many training clips; None: all there are (generated: 4096)."""
    validation: int | None = Field(None, gt=0)
    """None: all there are, or a tenth where none are set apart (generated: 512)."""
    test: int | None = Field(None, gt=0)
    """None: all there are (generated: 512)."""
    frames: int = Field(8, ge=4)
    """Frames of a clip: generated, or taken at equal distances from a video."""
    image_size: int = Field(32, ge=16)
    """Side of a frame."""
    seed: int = Field(0, ge=0)

    classes: Annotated[int, GENERATED] = Field(6, ge=4, le=10)
    """Kinds of object."""
    objects: Annotated[int, GENERATED] = Field(3, ge=1, le=3)
    """Most objects in a clip; events of two have two at least."""
    object_size: Annotated[float, GENERATED] = Field(3 / 8, ge=0.2, le=0.5)
    """Side of an object as a share of the frame's."""
    clutter: Annotated[float, GENERATED] = Field(0.5, ge=0, le=1)
    """Brightness of the pattern, the scraps and the noise behind the objects, as a share of the objects'."""
    decoder: Annotated[Literal["auto", "pyav", "torchcodec"], RECORDED] = "auto"
    """What decodes video files; auto: PyAV where installed, else torchcodec."""
    cache_mib: Annotated[int, RECORDED] = Field(1024, ge=0)
    """Memory in which decoded clips are kept, per split."""


class VideoTextOptions(VideoOptions):
    """Which clips and texts. `generated` needs no files; the others are read from `root`."""

    name: Literal["generated", "folder", "msrvtt", "msvd", "didemo", "tgif_qa"] = "generated"
    captions_per_clip: Annotated[int, GENERATED] = Field(1, ge=1, le=4)
    """Captions of each clip, in different words."""
    events: Annotated[tuple[Event, ...], GENERATED] = Field(ALL_EVENTS, min_length=1)
    """What may happen in a clip."""
    questions: Annotated[tuple[Kind, ...], GENERATED] = ALL_KINDS
    """Which kinds of question are asked."""

    split: Annotated[Literal["full", "1k-A"], When("name", ("msrvtt",))] = "1k-A"
    """MSR-VTT: the official split, or 9,000 clips against the 1,000 pairs of JSFusion."""
    question_type: Annotated[Literal["action", "transition", "frameqa", "count"], When("name", ("tgif_qa",))] = (
        "frameqa"
    )
    """TGIF-QA: which of its four tasks."""


class ClipOptions(VideoOptions):
    """Which clips and labels. `generated` needs no files; a `folder` has one folder per class in `root`."""

    name: Literal["generated", "folder"] = "generated"
    label: Annotated[Literal["direction", "object"], GENERATED] = "direction"
    """What the label says of the one object that moves: where to, which no single frame tells, or what it
    is."""
    frames: int = Field(16, ge=4)
    """Frames stored of a clip: generated, or taken at equal distances from a video. A model sees some of them."""
    stride: int = Field(1, ge=1)
    """Step between the stored frames that a model sees; the first is drawn at random in training."""
