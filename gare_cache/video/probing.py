"""Probe a video file: stream properties and presentation times, read from its packets."""

from __future__ import annotations

import errno
import itertools
import math
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gare_cache.errors import DecodeError
from gare_cache.video.containers import (
    ISO_MEDIA,
    MATROSKA,
    MOST_PIXELS,
    MPEG_STREAMS,
    decoded_packets,
    may_hold_fields,
    moving_streams,
    open_video,
    starts_with_idr,
)
from gare_cache.video.truncation import looks_like_iso_media, missing_bytes

Ticks = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_Decoded = tuple[Ticks | None, int, Ticks | None]

# Here every packet is one shown frame with its own time. VP8 has packets with hidden frames, MPEG-4
# Part 2 has packets without a picture and wrongly marked keyframes, and AVI stores no presentation
# times: such files are counted by decoding.
FRAME_PER_PACKET_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})
TIMED_CONTAINERS = frozenset({ISO_MEDIA, MATROSKA})
# AVI numbers stored frames: reordering delays the first one, which players undo.
UNTIMED_CONTAINERS = frozenset({"avi"})
# Matrices that FFmpeg's swscale takes for BT.601, by their number in ITU-T H.273.
UNSUPPORTED_MATRICES = {8: "YCgCo", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}
_MOST_SIDE_DATA_KINDS = 64
EVEN_SPACING_TOLERANCE = 0.25  # frame periods; half a period would reach another frame


@dataclass(frozen=True, eq=False)
class VideoProbe:
    """Properties of a video stream that decoders need.

    Attributes:
        container: FFmpeg's name of the container format.
        codec: FFmpeg's canonical name of the codec.
        width: stored width in pixels, before the rotation.
        height: stored height in pixels, before the rotation.
        bit_depth: bits per colour sample.
        rotation: degrees clockwise (0, 90, 180, 270) that make a stored frame stand upright.
        mirrored: whether a stored frame is to be mirrored left to right before that rotation.
        stream_index: the chosen stream among all streams of the file.
        num_video_streams: number of video streams, without attached pictures.
        has_edit_list: whether the container hides frames, or shows the first one late.
        clean_keyframes: whether decoding may begin at every keyframe: no frame stored after it
            depends on earlier frames or is shown before it.
        damaged_start: whether FFmpeg had to guess at the first frame.
        keyframe_pts: (K,) int64 ticks of the keyframes, ascending.
        pts: (N,) int64 ticks of the presented frames, ascending; None if the file has no
            reliable ones and frames are counted as they are decoded.
        times: (N,) float64 seconds of the presented frames from the start of the file, ascending.
        fps: frames per second.
        constant_rate: whether every frame lies within a quarter period of even spacing.
        most_pixels: limit on the pixels of a frame, which decoders keep, too.
    """

    container: str
    codec: str
    width: int
    height: int
    bit_depth: int
    rotation: int
    mirrored: bool
    stream_index: int
    num_video_streams: int
    has_edit_list: bool
    clean_keyframes: bool
    damaged_start: bool
    keyframe_pts: Ticks
    pts: Ticks | None
    times: Floats
    fps: float
    constant_rate: bool
    most_pixels: int = MOST_PIXELS


@dataclass
class _Scan:
    """Values collected in one pass over the packets of a stream."""

    pts: list[int] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    num_packets: int = 0
    num_hidden: int = 0
    all_timed: bool = True
    clean_start: bool = True
    clean_keyframes: bool = True
    first_frame: VideoFrame | None = None

    def add(self, packet: Packet[VideoStream], codec: str, extradata: bytes | None) -> None:
        """Process one packet, in stored order."""
        self.num_packets += 1
        if packet.pts is None:
            self.all_timed = False
            return
        if packet.is_keyframe:
            if codec == "h264" and not starts_with_idr(bytes(packet), extradata):
                self.clean_keyframes = False
            self.keyframes.append(packet.pts)
        elif not self.keyframes:
            self.clean_start = False
        elif packet.pts < self.keyframes[-1]:
            self.clean_keyframes = False
            self.clean_start = self.clean_start and len(self.keyframes) > 1
        if packet.is_discard or packet.pts < 0:
            self.num_hidden += 1
        else:
            self.pts.append(packet.pts)


def probe(path: Path | str, *, most_pixels: int = MOST_PIXELS) -> VideoProbe:
    """Read the properties and presentation times of a video.

    The packets are demuxed and one frame is decoded, for its orientation. If packets do not
    determine the shown frames (AVI, GIF, VP8, MPEG-4 Part 2, interlaced H.264, no timestamps), the
    whole stream is decoded. Frames with a negative timestamp and those that the container marks as
    hidden are left out, but not in MPEG-TS and MPEG-PS, where a wrapped clock makes times negative.

    Args:
        path: a local file.
        most_pixels: of a frame.

    Returns:
        The probe of the default video stream.

    Raises:
        DecodeError: the file is missing, empty, truncated or not a video, no frame decodes, its
            frames are too large, or its colours are unsupported.
    """
    path = Path(path)
    try:
        return _probe(path, most_pixels)
    except DecodeError:  # often because the file ends before what is read first
        if looks_like_iso_media(path):
            _check_length(path, ISO_MEDIA)
        raise


def _probe(path: Path, most_pixels: int) -> VideoProbe:
    with open_video(path, most_pixels=most_pixels) as (container, stream):
        codec = stream.codec_context.codec.canonical_name
        scan = _scan_packets(stream, container, codec)
        name = container.format.name
        frame = _first_frame(path, name, stream, scan)
        if matrix := UNSUPPORTED_MATRICES.get(int(frame.colorspace)):
            raise DecodeError(f"{path}: the colour matrix {matrix} is not supported; convert it")
        rotation, mirrored = _orientation(path, frame)
        fields = codec == "h264" and may_hold_fields(stream.codec_context.extradata)
        one_each = _packets_are_frames(scan, name, codec) and not fields
        decoded = None if one_each else _decoded(path, most_pixels)
        pts, times = _presented(path, container, stream, decoded, scan.pts)
        fps, constant_rate = _rate(times, _declared_fps(stream))
        trimmed = name == ISO_MEDIA and stream.frames > scan.num_packets
        late = name == ISO_MEDIA and times[0] > 0.5 / fps
        return VideoProbe(
            container=name,
            codec=codec,
            width=frame.width,
            height=frame.height,
            bit_depth=max(component.bits for component in frame.format.components),
            rotation=rotation,
            mirrored=mirrored,
            stream_index=stream.index,
            num_video_streams=len(moving_streams(container)),
            has_edit_list=scan.num_hidden > 0 or trimmed or late,
            clean_keyframes=scan.clean_keyframes and one_each,
            damaged_start=frame.is_corrupt,
            keyframe_pts=np.array(sorted(scan.keyframes), np.int64),
            pts=pts,
            times=times,
            fps=fps,
            constant_rate=constant_rate,
            most_pixels=most_pixels,
        )


def _scan_packets(stream: VideoStream, container: InputContainer, codec: str) -> _Scan:
    scan = _Scan()
    extradata = stream.codec_context.extradata
    for packet in container.demux(stream):
        if scan.first_frame is None:
            try:
                scan.first_frame = next(iter(packet.decode()), None)
            except av.error.FFmpegError as err:
                if err.errno == errno.ENOMEM:
                    raise
                scan.clean_start = False
        if packet.size > 0:
            scan.add(packet, codec, extradata)
    return scan


def _first_frame(path: Path, container: str, stream: VideoStream, scan: _Scan) -> VideoFrame:
    """Return the first frame; check that the file is not truncated."""
    _check_length(path, container)
    if scan.num_packets == 0:
        raise DecodeError(
            f"{path} is truncated: its header declares {stream.frames} video frames, "
            "the file holds none"
        )
    if scan.first_frame is None:
        raise DecodeError(f"{path} is damaged: none of its {scan.num_packets} packets decodes")
    return scan.first_frame


def _check_length(path: Path, container: str) -> None:
    if missing := missing_bytes(path, container):
        lost = f"its last {missing} bytes are" if missing > 1 else "its end is"
        raise DecodeError(f"{path} is truncated: {lost} missing")


def _packets_are_frames(scan: _Scan, container: str, codec: str) -> bool:
    return (
        container in TIMED_CONTAINERS
        and codec in FRAME_PER_PACKET_CODECS
        and scan.all_timed
        and scan.clean_start
        and len(set(scan.pts)) == len(scan.pts) > 0
    )


def _decoded(path: Path, most_pixels: int) -> _Decoded:
    """Decode the stream; return the ticks of its frames, None if unreliable, and their number.

    Third come the sorted ticks if they belong to the frames but in another order, as where packed
    B-frames were copied to MP4: a picture then has the place in which it is decoded.

    A packet that fails counts as a frame, so that a clip that needs it fails instead of getting a
    neighbour.
    """
    frame_pts: list[int | None] = []
    failed: list[int | None] = []
    with open_video(path, most_pixels=most_pixels) as (container, stream):
        wraps = container.format.name in MPEG_STREAMS
        for packet, frames in decoded_packets(container, stream):
            if frames is None:
                failed += [packet.pts] if frame_pts else []
            else:
                frame_pts += [frame.pts for frame in frames]
    if not frame_pts:
        raise DecodeError(f"{path} is damaged: no key frame of it decodes")
    ticks = [pts for pts in frame_pts if pts is not None]
    ascending = all(a < b for a, b in itertools.pairwise(ticks))
    if len(ticks) < len(frame_pts) or not ascending:
        if failed:
            raise DecodeError(f"{path} is damaged: {len(failed)} packets cannot be decoded")
        complete = len(set(ticks)) == len(frame_pts)
        return None, len(frame_pts), np.array(sorted(ticks), np.int64) if complete else None
    shown = sorted({p for p in [*ticks, *failed] if p is not None and (wraps or p >= 0)})
    if not shown:
        raise DecodeError(f"{path} shows no frame: all timestamps are negative")
    return np.array(shown, np.int64), len(shown), None


def _presented(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    found: _Decoded | None,
    packet_pts: list[int],
) -> tuple[Ticks | None, Floats]:
    """Return the ticks of the presented frames and their seconds as a player counts them.

    The ticks are those of the packets, or of the decoded frames, if these were needed; None if
    the frames have none and the seconds follow from the declared rate.
    """
    if found is None:
        pts = np.array(sorted(packet_pts), np.int64)
    else:
        decoded, num_frames, in_order = found
        if in_order is not None and stream.time_base is not None:
            seconds = in_order * float(stream.time_base)
            if container.format.name in UNTIMED_CONTAINERS:
                return None, seconds - seconds[0]
            if seconds[0] >= 0:
                return None, np.asarray(seconds, np.float64)
        if decoded is None:
            if _declared_fps(stream) <= 0:
                raise DecodeError(f"{path} has neither timestamps nor a frame rate")
            return None, np.arange(num_frames) / _declared_fps(stream)
        pts = decoded
    if stream.time_base is None:
        raise DecodeError(f"{path} has timestamps without a unit")
    times = pts * stream.time_base.numerator / stream.time_base.denominator
    if container.format.name in UNTIMED_CONTAINERS:
        return pts, times - times[0]
    start = (container.start_time or 0) / av.time_base
    return pts, times - (start if container.format.name in MPEG_STREAMS else max(0.0, start))


def _declared_fps(stream: VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def _rate(times: Floats, declared_fps: float) -> tuple[float, bool]:
    """Return the frames per second, and whether the frames are evenly spaced.

    The declared rate is kept if it does not shift any frame onto another one: timestamps in
    milliseconds give 29.97 or 12.5 only roughly, and the sampling stride is rounded from it.
    """
    steps = len(times) - 1
    if steps == 0:
        return declared_fps or 1.0, True
    period = float(times[-1] - times[0]) / steps
    deviation = np.abs(times - times[0] - np.arange(len(times)) * period).max()
    declared_fits = declared_fps > 0 and abs(1 / declared_fps - period) * steps < period / 2
    fps = declared_fps if declared_fits else 1 / period
    return fps, bool(deviation <= EVEN_SPACING_TOLERANCE * period)


def _known_side_data(frame: VideoFrame) -> Any:
    """Return the side data of a frame without kinds that PyAV cannot read, such as EXIF."""
    try:
        return frame.side_data
    except ValueError:
        known: set[Any] = {kind.value for kind in Type}
        graph = Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1),
            )
        ]
        nodes += [
            graph.add("sidedata", f"mode=delete:type={kind}")
            for kind in range(_MOST_SIDE_DATA_KINDS)
            if kind not in known
        ]
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        graph.push(frame)
        cleaned = graph.pull()
        if not isinstance(cleaned, VideoFrame):
            raise
        return cleaned.side_data


def _orientation(path: Path, frame: VideoFrame) -> tuple[int, bool]:
    """Return the clockwise rotation and the mirroring that make a frame stand upright.

    The display matrix maps x' = a x + c y, y' = b x + d y with y downwards; after a mirroring of x
    only a and b change sign, so that the angle follows from c and d.
    """
    matrix: Any = _known_side_data(frame).get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if a == b == c == d == 0:
        return 0, False
    angle = math.degrees(math.atan2(-c, d))
    quarter_turns = round(angle / 90)
    if abs(angle - 90 * quarter_turns) > 1:
        raise DecodeError(
            f"{path} is rotated by {angle:.1f} degrees; only quarter turns are supported"
        )
    return quarter_turns % 4 * 90, a * d - b * c < 0
