"""Open video files, and read container properties that FFmpeg does not report."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.codec.context import Flags
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gare_cache.errors import DecodeError, GareCacheError

ISO_MEDIA = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
MPEG_STREAMS = frozenset({"mpegts", "mpeg"})  # transport and programme streams
GREY_START_CODECS = frozenset(
    ["mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "h263", "flv1", "rv10", "rv20"]
)
# FFmpeg's readers of files that hold their streams themselves. Left out are those of playlists,
# scripts and numbered pictures, which open whatever files they name.
CONTAINERS = (
    *ISO_MEDIA.split(","),
    *MATROSKA.split(","),
    *("avi", "asf", "flv", "mpegts", "mpeg", "ogg", "gif"),
    *("h264", "hevc", "m4v", "mpegvideo"),  # bare streams
)
MOST_PIXELS = 8192 * 8192
ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC

_READ_BYTES = 1 << 18
_MARGIN_PIXELS = 1 << 16

_H264_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_H264_SLICES, _H264_IDR = frozenset({1, 5}), 5


@contextmanager
def open_video(
    path: Path, stream_index: int | None = None, *, most_pixels: int = MOST_PIXELS
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its video stream for single-threaded decoding.

    Args:
        path: a local file.
        stream_index: the stream to open; the default one if None.
        most_pixels: of a frame.

    Yields:
        The container and the stream.

    Raises:
        DecodeError: not a readable file, another container than those of ``CONTAINERS``, no video
            stream, no decoder for it, larger frames, or FFmpeg or PyAV fails inside the block,
            whatever the exception.
    """
    checked_size(path)
    _refuse_animated_webp(path)
    opened = False
    try:
        # FFmpeg reads this one open file, and opens nothing itself.
        with (
            path.open("rb") as file,
            av.open(
                file,
                mode="r",
                buffer_size=_READ_BYTES,
                metadata_errors="replace",
                container_options={
                    "protocol_whitelist": "none",
                    "format_whitelist": ",".join(CONTAINERS),
                },
            ) as container,
        ):
            opened = True
            stream = _video_stream(path, container, stream_index)
            _check_pixels(path, stream, most_pixels)
            stream.codec_context.thread_count = 1
            # Without it FFmpeg crops the left edge only to a multiple of its memory alignment.
            stream.codec_context.flags |= Flags.unaligned
            yield container, stream
    except av.error.FFmpegError as err:
        if err.errno == errno.ENOMEM:
            raise MemoryError(f"{path}: {err}") from err
        if err.errno != errno.EINVAL or opened:
            raise DecodeError(f"{path} is damaged or not a video: {err.strerror or err}") from err
        raise DecodeError(
            f"{path} is not in a supported container ({', '.join(CONTAINERS)}); lists of other "
            "files are not opened: convert it to MP4"
        ) from err
    except UnicodeError as err:
        raise DecodeError(f"{path} is damaged or not a video: {err}") from err
    except (GareCacheError, MemoryError):
        raise
    except Exception as err:  # one odd file must not end an extraction
        raise DecodeError(f"{path} cannot be decoded: {type(err).__name__}: {err}") from err


def _check_pixels(path: Path, stream: VideoStream, most_pixels: int) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > most_pixels:
        raise DecodeError(
            f"{path} has frames of {width} x {height} pixels; extract.max_frame_pixels allows "
            f"{most_pixels:,}"
        )
    # For frames that turn out larger than announced; FFmpeg counts the margins of its buffers.
    stream.codec_context.options = {"max_pixels": str(2 * most_pixels + _MARGIN_PIXELS)}


def _refuse_animated_webp(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(21)
    # The flags of the first chunk, VP8X; bit 1 announces an animation.
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and head[20] & 2:
        raise DecodeError(f"{path}: animated WebP is not supported; convert it to MP4 or GIF")


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


def decoded_packets(
    container: InputContainer, stream: VideoStream
) -> Iterator[tuple[Packet[VideoStream], list[VideoFrame] | None]]:
    """Demux and decode a stream; yield each packet with the frames that it brings out.

    None stands for the frames where the packet fails. Left out are the pictures before the first
    key frame that FFmpeg predicts from grey in the codecs of ``GREY_START_CODECS``, and the last
    picture that its MPEG-4 decoder repeats at the end where nothing is reordered.
    """
    codec = stream.codec_context
    begun = codec.codec.canonical_name not in GREY_START_CODECS
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as err:
            if err.errno == errno.ENOMEM:
                raise MemoryError(str(err)) from err
            yield packet, None
            continue
        if packet.size == 0 and begun and codec.name == "mpeg4" and not codec.has_b_frames:
            frames = []
        kept = [frame for frame in frames if (begun := begun or bool(frame.key_frame))]
        yield packet, kept


def may_hold_fields(extradata: bytes | None) -> bool:
    """Return whether an H.264 stream may store the two fields of a frame in two packets.

    Read from ``frame_mbs_only_flag`` of every sequence parameter set (ITU-T H.264, 7.3.2.1.1).

    Args:
        extradata: the AVCDecoderConfigurationRecord; True for other layouts.
    """
    if not extradata or len(extradata) < 6 or extradata[0] != 1:
        return True
    position = 6
    if not (num_sets := extradata[5] & 31):  # avc3: the sets lie among the packets
        return True
    for _ in range(num_sets):
        size = int.from_bytes(extradata[position : position + 2], "big")
        unit = extradata[position + 2 : position + 2 + size]
        try:
            if not _frames_only(unit.replace(b"\0\0\3", b"\0\0")):
                return True
        except IndexError:
            return True
        position += 2 + size
    return False


class _Bits:
    """Bits of an H.264 parameter set, the highest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._position = 0

    def take(self, count: int = 1) -> int:
        if self._position + count > len(self._bits):
            raise IndexError("the parameter set ends early")
        self._position += count
        return int(self._bits[self._position - count : self._position] or "0", 2)

    def golomb(self) -> int:
        """Return an unsigned Exp-Golomb code number."""
        zeros = 0
        while not self.take():
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_golomb(self) -> int:
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _frames_only(sps: bytes) -> bool:
    bits = _Bits(sps[4:])  # after the NAL header, profile, constraints and level
    bits.golomb()
    if sps[1] in _H264_HIGH_PROFILES:
        chroma = bits.golomb()
        bits.take(chroma == 3)
        bits.golomb()
        bits.golomb()
        bits.take()
        if bits.take():
            for number in range(12 if chroma == 3 else 8):
                if bits.take():
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    bits.golomb()
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take()
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    bits.take()
    bits.golomb()
    bits.golomb()
    return bits.take() == 1


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last


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
