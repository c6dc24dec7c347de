"""Probe a video file: stream properties and presentation times, read from its packets."""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gare_cache.errors import DecodeError
from gare_cache.video.containers import (
    ISO_MEDIA,
    MATROSKA,
    missing_bytes,
    moving_streams,
    open_video,
    starts_with_idr,
)

Ticks = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Here every packet is one shown frame with its own time. VP8 and old MPEG-4 have packets with
# hidden frames, and AVI stores no presentation times: such files are counted by decoding.
FRAME_PER_PACKET_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "mpeg4"})
TIMED_CONTAINERS = frozenset({ISO_MEDIA, MATROSKA})
# AVI numbers stored frames: reordering delays the first one, which players undo.
UNTIMED_CONTAINERS = frozenset({"avi"})
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


def probe(path: Path | str) -> VideoProbe:
    """Read the properties and presentation times of a video.

    The packets are demuxed and one frame is decoded, for its orientation. If packets do not
    determine the shown frames (AVI, GIF, VP8, no timestamps), the whole stream is decoded. Frames
    with a negative timestamp and those that the container marks as hidden are left out.

    Args:
        path: a local file.

    Returns:
        The probe of the default video stream.

    Raises:
        DecodeError: the file is missing, empty, truncated or not a video, or no frame decodes.
    """
    path = Path(path)
    with open_video(path) as (container, stream):
        codec = stream.codec_context.codec.canonical_name
        scan = _scan_packets(stream, container, codec)
        name = container.format.name
        frame = _first_frame(path, name, stream, scan)
        rotation, mirrored = _orientation(path, frame)
        one_each = _packets_are_frames(scan, name, codec)
        pts, times = _presented(path, container, stream, scan.pts if one_each else None)
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
        )


def _scan_packets(stream: VideoStream, container: InputContainer, codec: str) -> _Scan:
    scan = _Scan()
    extradata = stream.codec_context.extradata
    for packet in container.demux(stream):
        if scan.first_frame is None:
            try:
                scan.first_frame = next(iter(packet.decode()), None)
            except av.error.FFmpegError:
                scan.clean_start = False
        if packet.size > 0:
            scan.add(packet, codec, extradata)
    return scan


def _first_frame(path: Path, container: str, stream: VideoStream, scan: _Scan) -> VideoFrame:
    """Return the first frame; check that the file is not truncated."""
    if missing := missing_bytes(path, container):
        raise DecodeError(f"{path} is truncated: its last {missing} bytes are missing")
    if scan.num_packets == 0:
        raise DecodeError(
            f"{path} is truncated: its header declares {stream.frames} video frames, "
            "the file holds none"
        )
    if scan.first_frame is None:
        raise DecodeError(f"{path} is damaged: none of its {scan.num_packets} packets decodes")
    return scan.first_frame


def _packets_are_frames(scan: _Scan, container: str, codec: str) -> bool:
    return (
        container in TIMED_CONTAINERS
        and codec in FRAME_PER_PACKET_CODECS
        and scan.all_timed
        and scan.clean_start
        and len(set(scan.pts)) == len(scan.pts) > 0
    )


def _decoded(path: Path) -> tuple[Ticks | None, int]:
    """Decode the stream; return the ticks of its frames, None if unreliable, and their number.

    A packet that fails counts as a frame, so that a clip that needs it fails instead of getting a
    neighbour.
    """
    frame_pts: list[int | None] = []
    failed: list[int | None] = []
    with open_video(path) as (container, stream):
        for packet in container.demux(stream):
            try:
                frame_pts += [frame.pts for frame in packet.decode()]
            except av.error.FFmpegError:
                failed += [packet.pts] if frame_pts else []
    ticks = [pts for pts in frame_pts if pts is not None]
    ascending = all(a < b for a, b in itertools.pairwise(ticks))
    if len(ticks) < len(frame_pts) or not ascending:
        if failed:
            raise DecodeError(f"{path} is damaged: {len(failed)} packets cannot be decoded")
        return None, len(frame_pts)
    shown = sorted({p for p in [*ticks, *failed] if p is not None and p >= 0})
    if not shown:
        raise DecodeError(f"{path} shows no frame: all timestamps are negative")
    return np.array(shown, np.int64), len(shown)


def _presented(
    path: Path, container: InputContainer, stream: VideoStream, packet_pts: list[int] | None
) -> tuple[Ticks | None, Floats]:
    """Return the ticks of the presented frames and their seconds as a player counts them.

    The ticks are those of the packets, or of the decoded frames if the packets have none; None if
    the frames have none either and the seconds follow from the declared rate.
    """
    if packet_pts is not None:
        pts = np.array(sorted(packet_pts), np.int64)
    else:
        decoded, num_frames = _decoded(path)
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
    return pts, times - max(0.0, (container.start_time or 0) / av.time_base)


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


def _orientation(path: Path, frame: VideoFrame) -> tuple[int, bool]:
    """Return the clockwise rotation and the mirroring that make a frame stand upright.

    The display matrix maps x' = a x + c y, y' = b x + d y with y downwards; after a mirroring of x
    only a and b change sign, so that the angle follows from c and d.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
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
