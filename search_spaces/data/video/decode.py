"""Video files to frames, by PyAV or torchcodec, whichever is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.images import centre_square
from naslab.search_spaces.data.video.sets import middle_frames

Decoder = Literal["pyav", "torchcodec"]
PACKAGES = {"pyav": "av", "torchcodec": "torchcodec"}


class Unreadable(Exception):
    """A file from which no frame can be decoded; the message says why."""


def choose_decoder(wanted: Literal["auto", "pyav", "torchcodec"]) -> Decoder:
    """The decoder asked for; of `auto` PyAV before torchcodec.

    Raises:
        InputError: it is not installed.
    """
    candidates: tuple[Decoder, ...] = ("pyav", "torchcodec") if wanted == "auto" else (wanted,)
    for name in candidates:
        if find_spec(PACKAGES[name]):
            return name
    pip = " or ".join(f"pip install {PACKAGES[name]}" for name in candidates)
    raise InputError(f"task.dataset.decoder: {wanted}: no package that decodes video is installed; {pip}")


def probe(path: Path, decoder: Decoder) -> None:
    """Decode the first frame.

    Raises:
        Unreadable: that is not possible.
    """
    _guarded(path, lambda: _FIRST[decoder](path))


def decode(path: Path, frames: int, side: int, decoder: Decoder) -> tuple[Tensor, int, int]:
    """`frames` frames in the middle of as many equal segments of the video, and how whole it is.

    Returns:
        uint8 (frames, 3, side, side), the shorter side resized, the centre cropped; a frame that cannot be decoded is
        the last before it, and a video of fewer frames repeats some. How many of the frames were decoded, how many
        different ones there should have been.

    Raises:
        Unreadable: not one frame can be decoded.
    """
    decoded: tuple[Tensor, int, int] = _guarded(path, lambda: _DECODE[decoder](path, frames, side))
    return decoded


def _guarded(path: Path, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Unreadable:
        raise
    except (OSError, ValueError, IndexError, RuntimeError) as error:
        # PyAV's errors are OSError and ValueError, torchcodec's RuntimeError and ValueError.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(reason.replace(f": '{path}'", "")) from None


def _pyav_first(path: Path) -> None:
    import av

    with av.open(str(path)) as container:
        if next(iter(container.decode(_pyav_stream(container))), None) is None:
            raise Unreadable("holds no frame")


def _pyav_decode(path: Path, frames: int, side: int) -> tuple[Tensor, int, int]:
    import av

    with av.open(str(path)) as container:
        total = _pyav_stream(container).frames
    if total <= 0:
        # GIF and Matroska do not say how many frames they hold; packets are counted without decoding.
        with av.open(str(path)) as container:
            total = sum(1 for packet in container.demux(_pyav_stream(container)) if packet.size)
    wanted = _places(total, frames)
    found: dict[int, Tensor] = {}
    with av.open(str(path)) as container:
        stream = _pyav_stream(container)
        stream.thread_type = "AUTO"
        try:
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    found[number] = centre_square(frame.to_image(), side)
                if number >= wanted[-1]:
                    break
        except (OSError, ValueError):
            # Damaged in the middle: what was decoded before is used, and how much it was is returned.
            if not found:
                raise
    return _fill(found, wanted)


def _pyav_stream(container: Any) -> Any:
    if not container.streams.video:
        raise Unreadable("holds no video stream")
    return container.streams.video[0]


def _torchcodec_first(path: Path) -> None:
    from torchcodec.decoders import VideoDecoder

    VideoDecoder(str(path))[0]


def _torchcodec_decode(path: Path, frames: int, side: int) -> tuple[Tensor, int, int]:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(str(path))
    wanted = _places(len(video), frames)
    found: dict[int, Tensor] = {}
    for number in sorted(set(wanted)):
        try:
            pixels_CHW = video[number]
        except (RuntimeError, IndexError):
            if not found:
                raise
            break
        found[number] = centre_square(Image.fromarray(pixels_CHW.permute(1, 2, 0).numpy()), side)
    return _fill(found, wanted)


def _places(total: int, frames: int) -> list[int]:
    if total < 1:
        raise Unreadable("holds no frame")
    if total >= frames:
        return list(middle_frames(total, frames))
    return [number * total // frames for number in range(frames)]


def _fill(found: dict[int, Tensor], wanted: list[int]) -> tuple[Tensor, int, int]:
    if not found:
        raise Unreadable("none of its frames can be decoded")
    last = found[min(found)]
    frames = []
    for number in wanted:
        last = found.get(number, last)
        frames.append(last)
    return torch.stack(frames), len(found), len(set(wanted))


_FIRST = {"pyav": _pyav_first, "torchcodec": _torchcodec_first}
_DECODE = {"pyav": _pyav_decode, "torchcodec": _torchcodec_decode}
