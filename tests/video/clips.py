"""Small videos whose frames carry their number as black and white blocks."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

WIDTH, HEIGHT, BITS = 160, 96, 8
BLOCK = WIDTH // BITS


def numbered_frame(number: int) -> np.ndarray:
    """(96, 160, 3): block k of 8 is white where bit k of the number is set."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            frame[:, bit * BLOCK : (bit + 1) * BLOCK] = 255
    return frame


def read_number(frame: np.ndarray) -> int:
    columns = frame[HEIGHT // 4 : 3 * HEIGHT // 4].mean(axis=(0, 2))
    centres = columns[: BLOCK * BITS].reshape(BITS, BLOCK)[:, BLOCK // 4 : 3 * BLOCK // 4]
    return sum(1 << bit for bit, level in enumerate(centres.mean(axis=1)) if level > 128)


def read_numbers(frames: np.ndarray) -> list[int]:
    return [read_number(frame) for frame in frames]


def write_clip(
    path: Path, codec: str = "libx264", *, pts: list[int] | int = 200, **settings: Any
) -> Path:
    """Encode numbered frames at the given timestamps, in frames of 1/25 s."""
    stamps = list(range(pts)) if isinstance(pts, int) else pts
    pictures = [numbered_frame(number) for number in range(len(stamps))]
    return write_pictures(path, pictures, codec, pts=stamps, **settings)


def write_pictures(
    path: Path,
    pictures: list[np.ndarray],
    codec: str = "libx264",
    *,
    pts: list[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    b_frames: int | None = None,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    num_streams: int = 1,
) -> Path:
    """Encode (H, W, 3) pictures; skip the test where this FFmpeg lacks the encoder.

    The display matrix turns the stored pictures by ``rotation`` degrees counterclockwise.
    """
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        streams = [
            container.add_stream(codec, rate=25, options=options or {}) for _ in range(num_streams)
        ]
        for stream in streams:
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pix_fmt
            if b_frames is not None:
                stream.codec_context.max_b_frames = b_frames
            if rotation:
                stream.set_display_rotation(rotation)
        for number, picture in enumerate(pictures):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number if pts is None else pts[number]
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def copy_from(source: Path, target: Path, *, seconds: float) -> Path:
    """Copy packets as `ffmpeg -ss SECONDS -c copy` does: an edit list hides the first ones."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        begin = round(seconds / stream.time_base)
        for packet in read.demux(stream):
            if packet.dts is None:
                continue
            packet.pts -= begin
            packet.dts -= begin
            packet.stream = copy
            write.mux(packet)
    return target
