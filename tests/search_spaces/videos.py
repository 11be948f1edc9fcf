"""Video files for tests, really encoded, and captioned sets of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from naslab.search_spaces.data.video import VideoTextOptions, load_video_text

CODECS = {
    "mp4": "mpeg4",
    "avi": "mpeg4",
    "mkv": "ffv1",
    "mov": "mjpeg",
    "gif": "gif",
    "webm": "libvpx",
    "mpg": "mpeg2video",
}
PIXELS = {"ffv1": "yuv444p", "mjpeg": "yuvj420p", "gif": "rgb8"}


def encode(
    path: Path,
    frames: int = 12,
    size: tuple[int, int] = (48, 32),
    level: Callable[[int], int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose frame t is grey of level 20 t (or `level(t)`), width and height `size`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = CODECS[path.suffix[1:]]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        stream.bit_rate = 2_000_000
        for t in range(frames):
            picture = np.full((size[1], size[0], 3), level(t) if level else 20 * t, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def options(root: Path, name: str = "folder", **more: object) -> VideoTextOptions:
    return VideoTextOptions.model_validate({"name": name, "root": root, "frames": 4, "image_size": 16, **more})


def load(root: Path, name: str = "folder", **more: object):
    return load_video_text(options(root, name, **more))


def folder(root: Path, names: list[str], **encoding: object) -> None:
    for name in names:
        encode(root / name, **encoding)
    rows = [f'{name},"a clip, called {Path(name).stem}"' for name in names]
    (root / "captions.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
