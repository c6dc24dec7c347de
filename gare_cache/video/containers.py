"""Open video files, and read container properties that FFmpeg does not report."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from gare_cache.errors import DecodeError

ISO_MEDIA = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC

_SAMPLE_BOXES = frozenset({b"mdat", b"moov", b"moof"})
_EBML_HEADER, _EBML_SEGMENT = 0x1A45DFA3, 0x18538067
_H264_SLICES, _H264_IDR = frozenset({1, 5}), 5


@contextmanager
def open_video(
    path: Path, stream_index: int | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its video stream for single-threaded decoding.

    Args:
        path: a local file.
        stream_index: the stream to open; the default one if None.

    Yields:
        The container and the stream.

    Raises:
        DecodeError: not a readable file, no video stream, no decoder for it, or FFmpeg fails
            inside the block.
    """
    checked_size(path)
    try:
        # A playlist must not make the program fetch other files.
        with av.open(
            str(path.absolute()),
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file"},
        ) as container:
            stream = _video_stream(path, container, stream_index)
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.error.FFmpegError, UnicodeError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise DecodeError(f"{path} is damaged or not a video: {reason}") from err


def checked_size(path: Path) -> int:
    """Return the size of a file in bytes; raise DecodeError if missing, unreadable or empty."""
    try:
        size = path.stat().st_size
        readable = os.access(path, os.R_OK)
    except OSError as err:
        raise DecodeError(f"{path} cannot be read: {err.strerror}") from err
    if not path.is_file():
        raise DecodeError(f"{path} is not a file; give the path of a video")
    if not readable:
        raise DecodeError(f"{path} cannot be read: no permission")
    if size == 0:
        raise DecodeError(f"{path} is empty (0 bytes); fetch it again")
    return size


def moving_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams without attached pictures (covers)."""
    return [s for s in container.streams.video if not int(s.disposition) & ATTACHED_PICTURE]


def _video_stream(path: Path, container: InputContainer, index: int | None) -> VideoStream:
    streams = moving_streams(container)
    if index is not None:
        streams = [s for s in streams if s.index == index]
    if not streams:
        raise DecodeError(f"{path} has no video stream")
    best = container.streams.best("video")
    chosen = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    if chosen.codec_context is None:
        raise DecodeError(f"{path}: FFmpeg has no decoder for its video stream {chosen.index}")
    return chosen


def missing_bytes(path: Path, container_name: str) -> int:
    """Return how many of the bytes that the container declares are missing from the file.

    Read from the top-level boxes of ISO media, the segment of Matroska and the RIFF chunk of AVI;
    0 for other containers and for undeclared sizes.
    """
    size = checked_size(path)
    reader = {ISO_MEDIA: _iso_media_end, MATROSKA: _matroska_end, "avi": _riff_end}
    if container_name not in reader:
        return 0
    with path.open("rb") as file:
        return max(0, reader[container_name](file, size) - size)


def _iso_media_end(file: BinaryIO, file_size: int) -> int:
    position = 0
    while position + 16 <= file_size:
        file.seek(position)
        size, kind, long_size = struct.unpack(">I4sQ", file.read(16))
        size = long_size if size == 1 else size
        if size < 8:  # 0: the box extends to the end of the file; otherwise not a box
            break
        if position + size > file_size and kind not in _SAMPLE_BOXES:
            break
        position += size
    return position


def _matroska_end(file: BinaryIO, file_size: int) -> int:
    position = 0
    while position < file_size:
        file.seek(position)
        head = file.read(12)
        if len(head) < 12:
            break
        element = int.from_bytes(head[:4], "big")
        length = 9 - head[4].bit_length()
        if element not in (_EBML_HEADER, _EBML_SEGMENT) or length > 8:
            break
        mask = (1 << 7 * length) - 1
        size = int.from_bytes(head[4 : 4 + length], "big") & mask
        if size == mask:  # written live, size unknown
            break
        position += 4 + length + size
        if element == _EBML_SEGMENT:
            break
    return position


def _riff_end(file: BinaryIO, file_size: int) -> int:
    del file_size
    head = file.read(8)
    size = int.from_bytes(head[4:8], "little")
    return 0 if head[:4] != b"RIFF" or size == 0xFFFFFFFF else 8 + size


def starts_with_idr(packet: bytes, extradata: bytes | None) -> bool:
    """Return whether an H.264 keyframe packet is an IDR picture rather than a recovery point.

    Decoding may begin at either, but frames shown after a recovery point (open groups of pictures,
    intra refresh) may depend on earlier ones.

    Args:
        packet: length-prefixed NAL units, as ISO media and Matroska store them.
        extradata: the AVCDecoderConfigurationRecord, which holds the size of the prefix.

    Returns:
        True for an IDR picture; False also for other layouts of the packet.
    """
    if not extradata or len(extradata) < 5 or extradata[0] != 1:
        return False
    prefix = (extradata[4] & 3) + 1
    position = 0
    while position + prefix < len(packet):
        kind = packet[position + prefix] & 31
        if kind in _H264_SLICES:
            return kind == _H264_IDR
        position += prefix + int.from_bytes(packet[position : position + prefix], "big")
    return False
