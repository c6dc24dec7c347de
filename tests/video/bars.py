"""Videos whose frames carry their number as ten bars, and faults that other programs leave."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

BITS = 10


def bar_frame(number: int, width: int = 160, height: int = 128) -> np.ndarray:
    """(height, width, 3): bit b is the b-th of ten columns of the upper half, bright is 1."""
    frame = np.full((height, width, 3), 60, np.uint8)
    for bit in range(BITS):
        column = slice(bit * width // BITS, (bit + 1) * width // BITS)
        frame[: height // 2, column] = 230 if number >> bit & 1 else 20
    return frame


def read_bars(frame: np.ndarray) -> int:
    height, width = frame.shape[:2]
    band = frame[height // 6 : height // 3].mean(axis=(0, 2))
    levels = [
        band[(4 * b + 1) * width // (4 * BITS) : (4 * b + 3) * width // (4 * BITS)].mean()
        for b in range(BITS)
    ]
    return sum(1 << bit for bit, level in enumerate(levels) if level > 125)


def write_bars(path: Path, codec: str, *, count: int, shift: float = 0, **settings: Any) -> Path:
    """Encode numbered frames at 10 fps whose times begin at ``shift`` seconds."""
    with av.open(str(path), "w", container_options=settings.pop("container_options", {})) as file:
        stream = file.add_stream(codec, rate=10, options=settings.pop("options", {}))
        stream.width, stream.height = 160, 128
        stream.pix_fmt = settings.pop("pix_fmt", "yuv420p")
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(bar_frame(number), format="rgb24")
            frame.pts = number
            _mux(file, stream, frame, shift)
        _mux(file, stream, None, shift)
    return path


def _mux(file: Any, stream: Any, frame: av.VideoFrame | None, shift: float) -> None:
    for packet in stream.encode(frame):
        ticks = round(shift / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        file.mux(packet)


def write_camera_jpegs(path: Path, *, count: int, orientation: int | None) -> Path:
    """Mux JPEGs with an EXIF block, as cameras do; upright they show the numbered frames."""
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    if orientation is not None:
        exif[0x0112] = orientation
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation or 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=10)
        stream.pix_fmt = "yuvj420p"
        for number in range(count):
            picture = Image.fromarray(bar_frame(number))
            picture = picture if turn is None else picture.transpose(turn)
            if number == 0:
                stream.width, stream.height = picture.size
            jpeg = io.BytesIO()
            picture.save(jpeg, "JPEG", quality=90, exif=exif)
            packet = av.Packet(jpeg.getvalue())
            packet.stream = stream
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 10)
            packet.is_keyframe = True
            file.mux(packet)
    return path


def truncate(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def animated_webp(path: Path) -> Path:
    pictures = [Image.fromarray(bar_frame(number)) for number in range(3)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    return path


def set_asf_size(path: Path, size: int) -> Path:
    data = bytearray(path.read_bytes())
    start = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    data[start + 40 : start + 48] = struct.pack("<Q", size)
    path.write_bytes(bytes(data))
    return path


def drop_packets(source: Path, target: Path, *, first: int) -> Path:
    """Copy a file without its first packets, as a cut at any place does."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        for number, packet in enumerate(read.demux(stream)):
            if number >= first and packet.dts is not None:
                packet.stream = copy
                write.mux(packet)
    return target
